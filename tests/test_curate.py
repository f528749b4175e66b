"""``elf curate`` from end to end: the sheet, decisions, the App; killed, refused, run again."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageFilter

from elf import curate as module
from elf.cli import main, run
from elf.curation import scan
from elf.curation.embeddings import read_embeddings
from elf.curation.verdicts import Verdict, read_verdicts
from elf.errors import ElfError
from elf.files import FolderLock, read_log
from elf.images import picture_id
from elf.labels.decisions import add_decisions, read_decisions
from elf.labels.manifest import LabelFolder


def texture(seed, size=(560, 480)):
    """A picture with details of several sizes."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    for cells in (4, 16, 64, 256):
        layer = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        image = Image.blend(image, layer.resize(size, Image.Resampling.BICUBIC), 0.5)
    return image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with five files: two alike, one with the same bytes, blurred, broken."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data" / "raw"
    (root / "sub").mkdir(parents=True)
    texture(0).save(root / "a.png")
    texture(0).resize((280, 240)).save(root / "sub" / "a small.jpg", quality=80)
    shutil.copy(root / "a.png", root / "copy.png")
    texture(1).filter(ImageFilter.GaussianBlur(6)).save(root / "blurred.png")
    (root / "broken.jpg").write_bytes(b"nonsense")
    moment = time.time_ns() - 60 * 10**9
    for path in root.rglob("*"):
        os.utime(path, ns=(moment, moment))
    return tmp_path


def key(folder, name):
    return picture_id((folder / "data" / "raw" / name).read_bytes())


def proposals(folder):
    lines = read_log(folder / "data" / "curation" / "proposals.jsonl")
    return {line["path"]: line for line in lines}


def test_the_command(folder, capsys, monkeypatch):
    main(["curate"])
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "3 pictures in data/raw; 5 files were new or changed",
        "1 copy: the same bytes, so the same picture to all of Elf",
        "  copy.png has the same bytes as a.png",
        "1 near duplicate of 1 better picture",
        "flags: blurry 1, small 1",
        "1 file cannot be used",
        f"  broken.jpg: {out[6].split(': ', 1)[1]}",
        "proposed to drop: 2; decided by you: 0",
        "open data/curation/index.html, choose and save, then run `elf curate --apply FILE`",
    ]
    found = proposals(folder)
    assert [found[name]["keep"] for name in ("a.png", "sub/a small.jpg", "blurred.png")] == [
        True, False, False
    ]  # fmt: skip
    assert found["sub/a small.jpg"]["group"] == found["a.png"]["id"] == key(folder, "a.png")
    assert found["a.png"]["copies"] == ["copy.png"]
    sheet = (folder / "data" / "curation" / "index.html").read_bytes()
    assert not (folder / "data" / "labels").exists()
    monkeypatch.setattr(scan.Scanner, "_open", None)  # nothing is opened a second time
    main(["curate"])
    assert "0 files were new or changed" in capsys.readouterr().out
    assert (folder / "data" / "curation" / "index.html").read_bytes() == sheet


def test_no_picture_is_ever_touched(folder):
    root = folder / "data" / "raw"

    def state():
        return {path: (path.stat().st_mtime_ns, path.read_bytes())
                for path in root.rglob("*") if path.is_file()}  # fmt: skip

    before = state()
    run(["curate", "--accept"])
    assert state() == before


def test_accepted_proposals_and_applied_choices(folder, capsys):
    run(["curate", "--accept"])
    assert "2 decisions written to data/labels/decisions.jsonl" in capsys.readouterr().out
    small, blurred = key(folder, "sub/a small.jpg"), key(folder, "blurred.png")
    assert read_decisions("data/labels") == {small: {"keep": False}, blurred: {"keep": False}}
    (folder / "choices.jsonl").write_text(
        json.dumps({"id": blurred, "keep": True, "path": ""}) + "\n"
    )
    run(["curate", "--apply", "choices.jsonl"])
    out = capsys.readouterr().out
    assert out == "1 decision written to data/labels/decisions.jsonl, 0 held already\n"
    run(["curate", "--accept"])
    out = capsys.readouterr().out
    assert "0 decisions written" in out and "proposed to drop: 1; decided by you: 1" in out
    (folder / "data" / "raw" / "a.png").unlink()
    (folder / "data" / "raw" / "copy.png").unlink()
    run(["curate", "--accept"])  # the small one is the only one left
    assert read_decisions("data/labels") == {blurred: {"keep": True}}


def test_labels_that_there_are_follow(folder, capsys):
    blurred = key(folder, "blurred.png")
    labels = LabelFolder(folder / "data" / "labels")
    labels.write({"id": blurred, "path": "blurred.png", "tags": ["elf"], "attributes": {}})
    labels.close()
    text = folder / "data" / "labels" / f"{blurred}.txt"
    assert text.read_text() == "elf\n"
    run(["curate", "--accept"])
    assert not text.exists()
    (folder / "choices.jsonl").write_text(json.dumps({"id": blurred, "keep": True}) + "\n")
    run(["curate", "--apply", "choices.jsonl"])
    assert text.read_text() == "elf\n"


def test_a_single_picture_and_options_from_a_file(folder, capsys):
    root = folder / "one"
    root.mkdir()
    texture(3, (400, 90)).save(root / "wide.png")
    (folder / "curate.yaml").write_text(
        "root: one\nresolution: 100\nthresholds: {odd_aspect_ratio: 0.5}\n"
        "drop: [odd_aspect_ratio]\n"
    )
    run(["curate", "--config", "curate.yaml", "--labels=mine"])
    out = capsys.readouterr().out
    assert out.endswith("then run `elf curate --apply FILE --labels mine`\n")
    assert "1 picture in one; 1 file was new or changed" in out
    assert "flags: odd aspect ratio 1\n" in out and "proposed to drop: 1" in out
    assert proposals(folder)["wide.png"]["reason"] == "odd aspect ratio: 400 × 90"
    run(["curate", "--config", "curate.yaml", "--drop", "[]", "--thresholds.odd_aspect_ratio=0.1"])
    assert "flags: none\nproposed to drop: 0" in capsys.readouterr().out


def test_pictures_that_are_all_broken_are_listed(folder, capsys):
    (folder / "bad").mkdir()
    for number in range(module.SHOWN + 3):
        (folder / "bad" / f"{number:02}.png").write_bytes(b"%d" % number)
    run(["curate", "--root=bad"])
    out = capsys.readouterr().out
    assert "0 pictures in bad" in out and "13 files cannot be used" in out
    assert "  09.png: not a picture" in out and "  ... and 3 more" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root=nowhere"], r"root: no folder nowhere; give the folder of the pictures"),
        (["--root=empty"], r"root: no pictures in empty; put some there, or give another folder"),
        (["--output=data/raw/sheet"], r"output: data/raw/sheet lies in data/raw, where thumbnails"),
        (["--apply=x", "--accept"], r"apply: cannot go with --accept; run one after the other"),
        (["--apply=x"], r"apply: no file x; save it from the contact sheet first"),
        (["--distance=300"], r"distance: 300 is not between 0 and 127 bits"),
        (["--drop=[ugly]"], r"drop: no flag 'ugly'; there are blurry, "),
        (["--distanze=3"], r"distanze.*distance"),
    ],
)
def test_what_cannot_be_done(folder, arguments, message):
    (folder / "empty").mkdir()
    with pytest.raises(ElfError, match=message):
        run(["curate", *arguments])
    assert not (folder / "data" / "labels").exists()
    assert arguments != ["--root=nowhere"] or not (folder / ".cache").exists()


def test_damaged_decisions_are_told_before_anything_is_done(folder):
    (folder / "data" / "labels").mkdir()
    (folder / "data" / "labels" / "decisions.jsonl").write_text("nonsense\n")
    with pytest.raises(ElfError, match=r"decisions.jsonl, line 1: not a JSON object; mend"):
        run(["curate"])
    assert not (folder / ".cache").exists()


@pytest.mark.fault(8)
@pytest.mark.parametrize("where", [".cache/curation", "data/curation"])
def test_a_second_process_is_refused(folder, where):
    with FolderLock(where, module.LOCK), pytest.raises(ElfError, match=rf"pid {os.getpid()}"):
        run(["curate"])
    run(["curate"])


@pytest.mark.fault(7)
@pytest.mark.parametrize("function", ["scan.replace_file", "write_proposals", "write_sheet"])
def test_a_disk_that_refuses(folder, monkeypatch, function):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = scan if function.startswith("scan.") else module
    with monkeypatch.context() as patch:
        patch.setattr(target, function.removeprefix("scan."), full)
        with pytest.raises(ElfError, match=r"\(No space left on device\); what was meas"):
            run(["curate"])
    run(["curate"])
    assert len(proposals(folder)) == 3


KILLED = """
import os, sys
from elf import cli, curate, files
from elf.curation import scan

seen = 0
def counted(function):
    def call(*arguments, **options):
        global seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), 9)
        return function(*arguments, **options)
    return call

os.cpu_count = lambda: 1
scan.ResultCache.put = counted(scan.ResultCache.put)
scan.replace_file = counted(scan.replace_file)
files.AppendLog.append = counted(files.AppendLog.append)
files.os.replace = counted(os.replace)
files.os.fsync = counted(os.fsync)
for line in sys.stdin:  # what is imported already need not be imported for each of them
    at = int(line)
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        cli.main(["curate", "--accept"])
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def content(folder):
    """What a run leaves, apart from caches and locks."""
    paths = [
        path for part in ("curation", "labels") for path in (folder / "data" / part).rglob("*")
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in paths if path.is_file() and not path.name.endswith(".lock")}  # fmt: skip


@pytest.mark.fault(2)
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_killed_at_every_write_the_next_run_completes_it(folder):
    """Fault 2: whatever was cut off, the end is that of an undisturbed run, and stays so."""
    run(["curate", "--accept"])
    whole = content(folder)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KILLED], **pipes) as killer:
        for at in range(1, 100):
            for name in (".cache", "data/curation", "data/labels"):
                shutil.rmtree(folder / name)
            killer.stdin.write(f"{at}\n")
            killer.stdin.flush()
            status = int(killer.stdout.readline())
            run(["curate", "--accept"])
            left = content(folder)
            assert {name for name in left if not name.endswith(".tmp")} == whole.keys()
            assert {name: left[name] for name in whole} == whole
            if status == 0:
                break
    assert at > 15  # each of them was cut off


def test_embeddings_of_the_tagging_are_used(labelled, tmp_path, monkeypatch, capsys):
    """Of a real run of ``elf predict``."""
    pictures = sorted((labelled / "pictures").iterdir())
    with contextlib.closing(scan.Scanner(labelled / "pictures", tmp_path, tmp_path)) as scanner:
        digests = [picture.sha256 for picture in scanner.scan().pictures]
    vectors = read_embeddings(labelled / "cache", digests)
    assert vectors is not None and len(vectors) == len(pictures)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    some = read_embeddings(labelled / "cache", ["0" * 64, digests[3]])
    assert not some[0].any()
    np.testing.assert_array_equal(some[1], vectors[3])
    products = vectors @ vectors.T - 2 * np.eye(len(vectors))
    monkeypatch.chdir(tmp_path)
    options = [f"--root={labelled / 'pictures'}", f"--tagging={labelled / 'cache'}"]
    run(["curate", *options, f"--similarity={float(products.max()) - 1e-4}", "--distance=0"])
    assert "embedding 0." in (tmp_path / "data/curation/proposals.jsonl").read_text()
    assert f"1 better picture, by {len(pictures)} embeddings too\n" in capsys.readouterr().out
    run(["curate", *options, "--similarity=null", "--distance=0"])
    assert "embedding" not in (tmp_path / "data/curation/proposals.jsonl").read_text()


@pytest.mark.parametrize("there", [False, True])
def test_without_embeddings_there_are_none(tmp_path, there):
    if there:
        (tmp_path / "cache" / "wd-other").mkdir(parents=True)
    assert read_embeddings(tmp_path / "cache", ["0" * 64]) is None


def test_a_missing_fiftyone_is_one_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ElfError, match=r"fiftyone is not installed: `pip install 'elf\[curate\]'`"):
        run(["curate", "--backend=fiftyone"])


@pytest.mark.filterwarnings("ignore")  # FiftyOne's own libraries warn of each other
def test_a_review_in_the_app_comes_back(folder, fiftyone, capsys, monkeypatch):
    from elf.curation.app import PLUGIN

    options = ["--backend=fiftyone", "--name=elf-curation-test"]
    blurred, small = key(folder, "blurred.png"), key(folder, "sub/a small.jpg")
    run(["curate", *options, "--action=open"])
    assert "3 pictures; views: near duplicates, proposed drops, blurry, " in capsys.readouterr().out
    dataset = fiftyone.load_dataset("elf-curation-test")
    views = {name: dataset.load_saved_view(name).values("elf_id")
             for name in dataset.list_saved_views()}  # fmt: skip
    assert views["near duplicates"] == [key(folder, "a.png"), small]  # the best one first
    assert set(views["proposed drops"]) == {blurred, small}
    assert views["blurry"] == [blurred] and views["dark"] == []
    assert views["copies"] == [key(folder, "a.png")]
    # a tag of FiftyOne's own, and a button, whose decision is written when it answers
    sample = dataset.one(fiftyone.ViewField("elf_id") == small)
    sample.tags.append("keep")
    sample.save()
    monkeypatch.setattr(fiftyone.config, "plugins_dir", str(PLUGIN))
    other = dataset.one(fiftyone.ViewField("elf_id") == blurred)

    def press(name):
        context = {"dataset": dataset, "selected": [other.id], "params": {}}
        result = fiftyone.operators.execute_operator(f"elf-curate/{name}", ctx=context)
        assert not result.error, result.error

    press("drop_picture")
    assert read_verdicts(folder / "data/labels") == {blurred: Verdict(False, by_person=True)}
    press("clear_verdict")
    assert read_verdicts(folder / "data/labels") == {}
    press("keep_picture")
    # as if it had been killed here: opened anew, nothing is lost
    run(["curate", *options, "--action=open", "--accept"])
    out = capsys.readouterr().out
    assert "1 decision of an interrupted review written to" in out
    assert read_decisions("data/labels") == {small: {"keep": True}, blurred: {"keep": True}}
    dataset = fiftyone.load_dataset("elf-curation-test")
    assert len(dataset.load_saved_view("decided: keep")) == 2
    run(["curate", *options, "--action=write"])
    assert "0 tags written to data/labels/decisions.jsonl" in capsys.readouterr().out
    fiftyone.delete_dataset("elf-curation-test")


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_there_to_review_is_one_line(folder, fiftyone):
    with pytest.raises(
        ElfError, match="curate: no dataset 'nope' to read back; open it by `elf cur"
    ):
        run(["curate", "--backend=fiftyone", "--name=nope", "--action=write"])
    (folder / "bad").mkdir()
    (folder / "bad" / "a.png").touch()
    with pytest.raises(ElfError, match="root: no picture in bad can be used; the reasons stand ab"):
        run(["curate", "--backend=fiftyone", "--root=bad", "--action=open"])


@pytest.mark.filterwarnings("ignore")
def test_a_review_that_another_one_replaced_takes_nothing_from_it(folder, fiftyone):
    options = ["--backend=fiftyone", "--name=elf-replaced"]
    run(["curate", *options, "--action=open"])
    run(["curate", *options, "--action=open", "--labels=others"])
    sample = fiftyone.load_dataset("elf-replaced").first()
    sample.tags.append("drop")
    sample.save()
    with pytest.raises(ElfError, match=r"'elf-replaced' is a review of .*others now, not of data/"):
        run(["curate", *options, "--action=write"])
    assert read_decisions("data/labels") == {}
    run(["curate", *options, "--action=write", "--labels=others"])
    assert list(read_decisions("others").values()) == [{"keep": False}]
    fiftyone.delete_dataset("elf-replaced")


def test_others_datasets_and_decisions_are_left_alone(folder):
    add_decisions("data/labels", [{"id": "0" * 16, "keep": False}])  # of a picture elsewhere
    run(["curate", "--accept"])
    assert read_decisions("data/labels")["0" * 16] == {"keep": False}
