"""The review in FiftyOne, against a real database server."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from elf.cli import run
from elf.errors import ElfError
from elf.files import read_log
from elf.label import PLUGIN, suggestion
from elf.labels.decisions import read_decisions
from elf.labels.manifest import LabelFolder

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


def test_nothing_to_review_is_one_line(tmp_path):
    with pytest.raises(ElfError, match=r"label: .*manifest.jsonl is missing; run `elf predict` fi"):
        run(["label", f"--labels={tmp_path}"])


def test_a_missing_fiftyone_is_one_line(labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ElfError, match=r"^fiftyone is not installed: `pip install 'elf\[c"):
        run(["label", f"--labels={labels}", "--action=open"])


def test_the_buttons_that_are_listed_are_those_that_there_are():
    """FiftyOne leaves out, silently, what its list does not name."""
    listed = yaml.safe_load((PLUGIN / "fiftyone.yml").read_text())["operators"]
    titles = re.findall(r'title, icon.* = "([\w ]+)"', (PLUGIN / "__init__.py").read_text())
    names = [title.lower().replace(" ", "_") for title in titles]
    assert len(names) == 7
    assert sorted(listed) == sorted(name + end for name in names for end in ("", "_open"))


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


@pytest.mark.filterwarnings("ignore")
def test_a_dataset_that_was_never_opened_is_one_line(labels, fiftyone):
    with pytest.raises(ElfError, match="label: no dataset 'nope' to read back; open it by `elf la"):
        run(["label", f"--labels={labels}", "--name=nope", "--action=write"])


@pytest.mark.filterwarnings("ignore")
def test_pictures_that_were_renamed_since_are_shown(labels, fiftyone):
    raw = labels.parent / "raw"
    (raw / "0.png").rename(raw / f"{IDS[0]}.png")
    run(["label", f"--labels={labels}", f"--root={raw}", "--name=elf-renamed", "--action=open"])
    dataset = fiftyone.load_dataset("elf-renamed")
    shown = dict(zip(dataset.values("elf_id"), dataset.values("filepath"), strict=True))
    assert shown[IDS[0]] == str(raw / f"{IDS[0]}.png")
    assert shown[IDS[1]] == str(raw / "1.png")
    fiftyone.delete_dataset("elf-renamed")


@pytest.fixture
def opened(labels, fiftyone, monkeypatch, capsys):
    """The dataset, and what presses a button as the App does."""
    options = [f"--labels={labels}", f"--root={labels.parent / 'raw'}", "--name=elf-test"]
    run(["label", *options, "--action=open"])
    monkeypatch.setattr(fiftyone.config, "plugins_dir", str(PLUGIN))
    dataset = fiftyone.load_dataset("elf-test")
    ids = dict(zip(dataset.values("elf_id"), dataset.values("id"), strict=True))

    def press(name, *numbers, current=None, **params):
        import fiftyone.operators as operators

        chosen = [ids[IDS[number]] for number in numbers]
        context = {"dataset": dataset, "selected": chosen, "params": params}
        if current is not None:
            context["current_sample"] = ids[IDS[current]]
        result = operators.execute_operator(f"elf/{name}", ctx=context)
        assert not result.error, result.error
        requests = result.executor.to_json()["requests"]
        return next(r["params"]["message"] for r in requests if "message" in (r["params"] or {}))

    yield dataset, press
    fiftyone.delete_dataset("elf-test")


def show(dataset, number):
    dataset.reload()
    sample = dataset.one(dataset_filter(IDS[number]))
    made = [entry.label for entry in sample["elf_tags"].classifications]
    return sample.tags, made, sample["caption"], sample["decision"]


def dataset_filter(key):
    from fiftyone import ViewField

    return ViewField("elf_id") == key


@pytest.mark.filterwarnings("ignore")
def test_a_button_has_written_when_it_answers(labels, opened, capsys):
    dataset, press = opened
    text = " wood_elf ,fern,, my  own tag,\nfern, moss,"
    assert press("edit_tags", 0, tags=text) == "Edit tags: 1 of 1 pictures changed, written"
    tags = ["wood_elf", "fern", "my own tag", "moss"]
    assert read_decisions(labels) == {IDS[0]: {"tags": tags}}
    press("edit_caption", 0, caption=" An elf,\n" + "in moss " * 40)
    caption = "An elf, " + " ".join(["in moss"] * 40)
    assert read_decisions(labels)[IDS[0]] == {"tags": tags, "caption": caption}
    assert show(dataset, 0) == ([], tags, caption, "edited")
    press("edit_tags", 1, tags="")
    assert read_decisions(labels)[IDS[1]] == {"tags": []}
    # nothing more to write back: what is killed here loses nothing
    options = [f"--labels={labels}", "--name=elf-test", "--action=write"]
    capsys.readouterr()
    run(["label", *options])
    assert "0 decisions written" in capsys.readouterr().out
    assert (labels / f"{IDS[0]}.txt").read_text() == ", ".join(tags) + "\n"
    assert (labels / f"{IDS[1]}.txt").read_text() == "\n"


@pytest.mark.filterwarnings("ignore")
def test_several_pictures_at_once_and_all_taken_back(labels, opened):
    dataset, press = opened
    assert press("add_tags", 0, 1, 3, tags="moss, mist") == (
        "Add tags: 3 of 3 pictures changed, written"
    )
    assert read_decisions(labels)[IDS[1]] == {"tags": ["wood_elf", "elf", "fern", "moss", "mist"]}
    press("remove_tags", 0, 1, 2, tags="Fern, no such tag")
    assert read_decisions(labels)[IDS[0]] == {"tags": ["wood_elf", "elf", "moss", "mist"]}
    assert IDS[2] not in read_decisions(labels)
    press("drop_picture", 0, 2)
    press("keep_picture", 0)
    assert [read_decisions(labels)[IDS[n]]["keep"] for n in (0, 2)] == [True, False]
    assert show(dataset, 0)[0] == ["keep"] and show(dataset, 0)[3] == "keep, edited"
    press("clear_decision", 0, 1, 2, 3)
    assert read_decisions(labels) == {}
    assert show(dataset, 0) == ([], RECORDS[0]["tags"], "caption 0", None)


@pytest.mark.filterwarnings("ignore")
def test_an_open_picture_comes_before_the_selected_ones(labels, opened):
    _, press = opened
    press("drop_picture_open", 0, 1, current=3)
    assert read_decisions(labels) == {IDS[3]: {"keep": False}}
    press("edit_tags_open", 0, 1, current=3, tags="a")
    assert read_decisions(labels)[IDS[3]] == {"keep": False, "tags": ["a"]}


@pytest.mark.filterwarnings("ignore")
def test_a_button_that_cannot_act_says_why(labels, opened, monkeypatch):
    _, press = opened
    assert press("drop_picture") == "Select pictures first, or open one."

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elf.label.add_decisions", full)
    assert "decisions.jsonl: could not write (No space left on device); nothing" in press(
        "keep_picture", 0
    )
    assert read_decisions(labels) == {}


@pytest.mark.filterwarnings("ignore")
def test_forms_show_what_there_is(opened):
    import fiftyone.operators as operators

    dataset, _ = opened
    ids = dict(zip(dataset.values("elf_id"), dataset.values("id"), strict=True))

    def form(name, *numbers):
        operator = operators.get_operator(f"elf/{name}")
        request = {"dataset_name": dataset.name, "selected": [ids[IDS[n]] for n in numbers]}
        context = operators.executor.ExecutionContext(
            operator_uri=f"elf/{name}", request_params=request
        )
        assert operator.resolve_placement(context).view.label == operator.config.label
        found = operator.resolve_input(context)
        return found and found.to_json()["type"]["properties"]

    assert form("edit_tags", 0)["tags"]["default"] == "wood_elf, elf, fern"
    assert form("edit_caption", 2)["caption"]["default"] == "caption 2"
    assert form("add_tags", 0, 2)["tags"]["required"]
    there = form("remove_tags", 0, 2)["tags"]["view"]["description"]
    assert there.endswith("There are: wood_elf, elf, fern, spaceship, robot")
    assert form("drop_picture", 0) is None
    problem = form("edit_tags", 0, 1)["problem"]
    assert problem["invalid"] and problem["view"]["label"] == (
        "2 pictures are selected; this edits one: select or open a single one."
    )


@pytest.mark.fault(1)
@pytest.mark.filterwarnings("ignore")
def test_what_a_killed_review_left_in_the_app_is_not_lost(labels, opened, capsys):
    """FiftyOne's own tag menu writes into its database alone."""
    dataset, _ = opened
    sample = dataset.one(dataset_filter(IDS[2]))
    sample.tags.append("drop")
    sample.save()
    options = [f"--labels={labels}", f"--root={labels.parent / 'raw'}", "--name=elf-test"]
    capsys.readouterr()
    run(["label", *options, "--action=open"])
    assert "1 decision of an interrupted review written to" in capsys.readouterr().out
    assert read_decisions(labels) == {IDS[2]: {"keep": False}}
    assert not (labels / f"{IDS[2]}.txt").exists()


@pytest.mark.filterwarnings("ignore")
def test_labels_that_changed_meanwhile_are_no_decisions(labels, opened, capsys):
    folder = LabelFolder(labels)
    folder.write(record(0, ["robot"]))
    folder.close()
    capsys.readouterr()
    run(["label", f"--labels={labels}", "--name=elf-test", "--action=write"])
    assert "0 decisions written" in capsys.readouterr().out
    assert (labels / f"{IDS[0]}.txt").read_text() == "wood_elf, robot\n"


@pytest.mark.filterwarnings("ignore")
def test_text_files_that_were_edited_are_shown(labels, fiftyone, capsys):
    (labels / f"{IDS[0]}.txt").write_text("wood_elf, by hand\n")
    options = [f"--labels={labels}", f"--root={labels.parent / 'raw'}", "--name=elf-test"]
    run(["label", *options, "--action=open"])
    assert "1 text files were edited by hand: they stay" in capsys.readouterr().out
    dataset = fiftyone.load_dataset("elf-test")
    assert show(dataset, 0)[1:] == (["wood_elf", "by hand"], "caption 0", "edited")
    fiftyone.delete_dataset("elf-test")


def test_without_edits_there_is_nothing_to_fit(labels):
    assert suggestion(labels) == "no edited labels yet to fit a cutoff to"


def listening(port):
    """The addresses at which any process listens, as the kernel writes them."""
    lines = [line.split() for path in ("/proc/net/tcp", "/proc/net/tcp6")
             for line in Path(path).read_text().splitlines()[1:]]  # fmt: skip
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    return [address for address, number in places if int(number, 16) == port]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens")
@pytest.mark.parametrize(("options", "address"), [([], "0100007F"), (["0.0.0.0"], "00000000")])
def test_the_app_listens_where_it_was_told(labels, fiftyone, options, address):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "elf", "label", f"--labels={labels}", f"--port={port}",
               f"--root={labels.parent / 'raw'}", "--name=elf-listening",
               *(f"--address={option}" for option in options)]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # FiftyOne leaves the loopback by itself where it takes the machine for a container
    with subprocess.Popen(command, env=os.environ | {"BROWSER": "true"}, **pipes) as app:
        said = ""
        while "close the tab" not in said and (line := app.stdout.readline()):
            said += line
        found = listening(port)
        app.send_signal(signal.SIGINT)
        said += app.stdout.read()
    assert found == [address], said
    assert ("whoever reaches 0.0.0.0:" in said) == bool(options)
    assert "0 decisions written to" in said


def test_a_place_where_the_app_cannot_listen_is_told_first(labels):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in (["label", f"--labels={labels}"], ["curate", "--backend=fiftyone"]):
            with pytest.raises(ElfError, match=rf"^port: {port} is in use, perhaps by another App"):
                run([*command, f"--port={port}"])
    with pytest.raises(ElfError, match=r"^port: 0 is not between 1 and 65535"):
        run(["label", f"--labels={labels}", "--port=0"])
    for address in ("192.0.2.1", "no.such.invalid", "::1"):
        with pytest.raises(ElfError, match=rf"^address: the App cannot listen at {address}:59"):
            run(["label", f"--labels={labels}", f"--address={address}", "--port=5998"])
