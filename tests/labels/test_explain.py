import numpy as np
import pytest
from PIL import Image

from elf.cli import main, run
from elf.errors import ElfError
from elf.files import read_log
from elf.labels.decisions import add_decisions
from elf.labels.explain import explain
from elf.labels.manifest import LabelFolder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    (folder / "raw").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "raw" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def arguments(folder, tiny_models):
    return [
        *("predict", "--config", "configs/tag/quickstart.yaml"),
        f"--data.root={folder / 'raw'}",
        f"--data.labels={folder / 'labels'}",
        f"--data.cache={folder / 'cache'}",
        f"--model.wd.model={tiny_models['tagger']}",
        f"--model.florence.model={tiny_models['captioner']}",
        "--model.florence.max_new_tokens=8",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={folder}",
    ]


@pytest.fixture
def records(folder, arguments):
    if not (folder / "labels" / "manifest.jsonl").exists():
        main(arguments)
    return read_log(folder / "labels" / "manifest.jsonl")


def test_every_tag_is_explained_without_a_model(records, arguments, capsys, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("elf.taggers.backend.WDTagger", fail)
    monkeypatch.setattr("elf.modules.tagger.FlorenceCaptioner", fail)
    record = records[0]
    main([*arguments, "--explain", record["id"][:10]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{record['id']}  {record['path']}  rating {record['rating']}"
    assert lines[1] == f"caption: {record['caption']}"
    kept = [line for line in lines if line.startswith("+ ")]
    assert [line[2:].split(": ")[0] for line in kept] == record["tags"]
    assert kept[0] == "+ wood_elf: trigger"
    assert "general, cutoff 0." in kept[1]
    dropped = [line[2:].split(": ")[0] for line in lines if line.startswith("- ")]
    assert dropped == list(record["attributes"]["dropped"])


def test_other_rules_are_explained_as_they_would_act(records, arguments, capsys):
    tag = next(iter(records[0]["attributes"]["scores"]))
    main([*arguments, "--explain", records[0]["id"], f"--model.rules.remove=[{tag}]",
          "--model.rules.append=[good]"])  # fmt: skip
    out = capsys.readouterr().out
    assert f"- {tag.replace(' ', '_')}: remove" in out
    assert "+ good: append" in out


def test_a_reviewers_word_is_told(records, arguments, folder, capsys):
    add_decisions(folder / "labels", [{"id": records[1]["id"], "keep": False, "tags": ["a", "b"]}])
    LabelFolder(folder / "labels").close()
    main([*arguments, "--explain", records[1]["id"]])
    out = capsys.readouterr().out
    assert "! the reviewer left the picture out" in out
    assert "! the reviewer wrote the tags: " in out


@pytest.mark.parametrize("key", ["1234567890123456", "1234567890e12345", "0000000000000001"])
def test_ids_that_look_like_numbers_stay_texts(arguments, records, key):
    with pytest.raises(ElfError, match=rf"no picture has an id that begins with '{key}' in"):
        run([*arguments, "--explain", key])


def test_what_cannot_be_explained_is_one_line(records, arguments, folder, tmp_path):
    with pytest.raises(ElfError, match=r"explain: no picture has an id that begins with 'xyz' in"):
        run([*arguments, "--explain", "xyz"])
    with pytest.raises(ElfError, match=r"explain: 2 pictures have an id that begins with '' in"):
        run([*arguments, "--explain", ""])
    with pytest.raises(
        ElfError, match=r"explain: the scores of .* by this tagger are not in .*; l"
    ):
        run([*arguments, "--explain", records[0]["id"], f"--data.cache={tmp_path}"])
    with pytest.raises(ElfError, match=r"explain: object has no rules; take TaggerModule"):
        explain(object(), str(folder / "labels"), None, "")
