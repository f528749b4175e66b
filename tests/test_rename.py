"""Content ids as names: reversible, never overwriting, and whole whenever it is cut off."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from elf import rename as module
from elf.cli import main
from elf.errors import ElfError
from elf.files import FolderLock
from elf.images import picture_id
from elf.rename import JOURNAL, make_plan, rename, undo


def picture(path, seed=0, **save):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **save)
    return picture_id(path.read_bytes())


def content(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "raw"
    picture(folder / "a.png", 0)
    picture(folder / "sub" / "b.JPEG", 1, format="JPEG")
    picture(folder / "wrong.jpg", 2, format="WEBP")
    (folder / "a.txt").write_text("a caption")
    (folder / "sub" / "b.caption").write_text("b caption")
    (folder / "notes.txt").write_text("of no picture")
    return folder


def test_pictures_and_what_lies_beside_them_get_ids(root):
    before = content(root)
    plan = rename(root)
    ids = {name: picture_id(data) for name, data in before.items()}
    a, b, wrong = ids["a.png"], ids["sub/b.JPEG"], ids["wrong.jpg"]
    assert content(root) == {
        f"{a}.png": before["a.png"],
        f"{a}.txt": b"a caption",
        f"sub/{b}.jpg": before["sub/b.JPEG"],  # the suffix of what it is
        f"sub/{b}.caption": b"b caption",
        f"{wrong}.webp": before["wrong.jpg"],
        "notes.txt": b"of no picture",
    }
    assert (plan.pictures, plan.named, plan.left, len(plan.moves)) == (3, 0, {}, 5)
    again = rename(root)
    assert (again.pictures, again.named, again.moves) == (0, 3, [])


def test_undo_brings_the_old_names_back(root):
    before = content(root)
    rename(root)
    assert undo(root) == (5, {})
    assert content(root) == before
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    with pytest.raises(ElfError, match=r"root: nothing to undo, .*elf-rename.jsonl does not exist"):
        undo(root)


def test_undo_goes_back_over_several_runs(root):
    before = content(root)
    rename(root)
    new = picture(root / "late.png", 9)
    rename(root)
    assert f"{new}.png" in content(root)
    assert undo(root)[0] == 6
    late = content(root)
    assert late.pop("late.png") and late == before


def test_undo_names_what_was_taken_away(root, capsys):
    old = picture_id((root / "a.png").read_bytes())
    rename(root)
    new = picture(root / f"{old}.png", 7)  # which a second run calls anew
    rename(root)
    (root / f"{new}.png").unlink()
    main(["rename", f"--root={root}", "--undo"])
    out = capsys.readouterr().out.splitlines()
    assert out[1:] == [f"  {new}.png: not there any more; it was a.png"]
    assert not (root / JOURNAL).exists()


def test_copies_are_reported_and_left(root):
    (root / "copy.png").write_bytes((root / "a.png").read_bytes())
    (root / "sub" / "copy.png").write_bytes((root / "a.png").read_bytes())
    plan = rename(root)
    assert plan.left == {
        "copy.png": "has the same bytes as a.png",
        "sub/copy.png": "has the same bytes as a.png",
    }
    assert {"copy.png", "sub/copy.png"} <= set(content(root))
    (reason,) = set(rename(root).left.values())
    assert reason == f"has the same bytes as {picture_id((root / 'copy.png').read_bytes())}.png"


def test_no_file_is_overwritten(root):
    name = picture_id((root / "a.png").read_bytes())
    (root / f"{name}.txt").write_text("another's")
    plan = rename(root)
    assert plan.left == {"a.png": f"another file is called {name}.png"}
    assert (root / f"{name}.txt").read_text() == "another's"
    assert (root / "a.txt").exists() and (root / "a.png").exists()


def test_a_name_that_another_picture_gives_up_is_free(root):
    target = picture_id((root / "a.png").read_bytes())
    other = picture(root / f"{target}.png", 5)  # another picture has that name
    before = content(root)
    plan = rename(root)
    assert not plan.left and {f"{target}.png", f"{other}.png"} <= set(content(root))
    assert undo(root)[0] == 6 and content(root) == before


def test_two_pictures_of_one_stem_share_no_text(root):
    picture(root / "a.jpg", 7)
    rename(root)
    assert "a.txt" in content(root)


def test_a_dry_run_changes_nothing(root, capsys):
    before = content(root)
    main(["rename", "--root", str(root), "--dry_run"])
    out = capsys.readouterr().out
    assert "3 pictures would be renamed with 2 files beside them, 0 had their name already" in out
    assert "  a.png -> " in out
    assert content(root) == before and not (root / JOURNAL).exists()


def test_the_command(root, capsys):
    (root / "copy.png").write_bytes((root / "a.png").read_bytes())
    main(["rename", f"--root={root}"])
    out = capsys.readouterr().out
    assert "3 pictures renamed with 2 files beside them, 0 had their name already" in out
    assert "  copy.png stays: has the same bytes as a.png" in out
    assert f"the old names come back by `elf rename --undo --root {root}`" in out
    main(["rename", f"--root={root}", "--undo"])
    assert "5 files have their old names again" in capsys.readouterr().out


def test_undo_leaves_what_is_in_the_way(root):
    rename(root)
    picture(root / "a.png", 8)
    (name,) = (name for name in content(root) if name.endswith(".png") and name != "a.png")
    count, left = undo(root)
    assert (count, left) == (4, {name: "another file is called a.png"})
    (root / "a.png").unlink()
    assert undo(root) == (1, {})


def test_damaged_and_unreadable_pictures(root, monkeypatch):
    (root / "bad.PNG").write_bytes(b"nonsense")
    real = module.sha256_file

    def refusing(path):
        if path.name == "wrong.jpg":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(module, "sha256_file", refusing)
    plan = rename(root)
    assert plan.left == {"wrong.jpg": "could not be read (Permission denied)"}
    assert picture_id(b"nonsense") + ".png" in content(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "nowhere"], r"root: no folder nowhere; give the folder of the pictures"),
        (["--root", "."], r"root: no pictures in \.; put some there, or give another folder"),
        (["--undo", "--dry_run"], r"undo: cannot be tried with --dry_run; take one of the two"),
    ],
)
def test_what_cannot_be_done(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ElfError, match=message):
        module.main(arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(8)
def test_a_second_process_is_refused(root):
    with FolderLock(root, f".{JOURNAL}.lock"), pytest.raises(ElfError, match=rf"pid {os.getpid()}"):
        rename(root)


KILLED = """
import os, sys
from pathlib import Path
from elf import files, rename

at, seen = int(sys.argv[2]), 0
def counted(function):
    def call(*arguments):
        global seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), 9)
        return function(*arguments)
    return call

rename.os.rename = counted(os.rename)
rename.sync_folder = counted(rename.sync_folder)
rename.AppendLog.append = counted(rename.AppendLog.append)
rename.AppendLog.sync = counted(rename.AppendLog.sync)
rename.AppendLog.rewrite = counted(rename.AppendLog.rewrite)
getattr(rename, sys.argv[3])(Path(sys.argv[1]))
"""


@pytest.mark.fault(2)
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
@pytest.mark.parametrize(
    ("what", "step"),
    [
        ("rename", 4),
        *(pytest.param(what, 1, marks=pytest.mark.slow) for what in ("rename", "undo")),
    ],
)
def test_killed_at_every_step_the_next_run_completes_it(root, what, step):
    """Fault 2, and at every instant each picture has exactly one name."""
    before = content(root)
    rename(root)
    after = content(root)
    undo(root)
    for at in range(1, 100, step):
        if what == "undo":
            rename(root)
        command = [sys.executable, "-c", KILLED, str(root), str(at), what]
        code = subprocess.run(command, capture_output=True, timeout=60).returncode
        assert sorted(content(root).values()) == sorted(before.values())
        if what == "rename":
            rename(root)
            assert content(root) == after
            assert undo(root) == (5, {})
        elif (root / JOURNAL).exists():
            undo(root)
        assert content(root) == before
        if code == 0:
            break
    assert at > 8  # all of them were cut off


@pytest.mark.fault(7)
@pytest.mark.parametrize("number", range(1, 6))
def test_a_disk_that_refuses(root, monkeypatch, number):
    """Fault 7: the k-th rename fails."""
    real, calls = os.rename, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == number:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    before = content(root)
    monkeypatch.setattr(module.os, "rename", failing)
    with pytest.raises(ElfError, match=r"could not rename \(Input/output error\); every picture"):
        rename(root)
    assert sorted(content(root).values()) == sorted(before.values())
    rename(root)
    assert make_plan(root).moves == []
    assert undo(root) == (5, {}) and content(root) == before
