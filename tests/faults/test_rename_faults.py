"""Faults 2 and 7 of `elf rename` and `elf rename --undo`: the real command, real files."""

import random
import shutil
import time
from itertools import count

import numpy as np
import pytest
from PIL import Image

from elf.rename import JOURNAL, rename


def content(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("[!.]*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder before `elf rename`, and one after it."""
    folder = tmp_path_factory.mktemp("folders")
    for number in range(4):
        path = folder / "before" / ("sub" if number == 2 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 7, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "before/3.txt").write_text("a caption")
    shutil.copytree(folder / "before", folder / "after")
    rename(folder / "after")
    return folder


def check(commands, folders, root, what, **fault):
    """Run `elf rename` or its undo with a fault, check what it left, and run it again."""
    start, end = ("before", "after") if what == "rename" else ("after", "before")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(folders / start, root)
    arguments = ["rename", f"--root={root}", *(["--undo"] if what == "undo" else [])]
    ending = commands.run(*arguments, **fault)
    old, new = content(folders / start), content(folders / end)
    left = content(root)
    assert left.items() <= old.items() | new.items(), "every name is an old or a new one"
    assert sorted(left.values()) == sorted(old.values()), "every file has exactly one name"
    assert ending.code in (0, -9) or ending.is_refusal(), ending.said
    if what == "rename" or (root / JOURNAL).exists():
        again = commands.run(*arguments)
        assert again.code == 0, again.said
    assert content(root) == new
    if what == "rename":
        assert commands.run(*arguments, "--undo").code == 0
        assert content(root) == old
    assert not list(root.glob(".*")), "no journal, lock or half-written file stays"
    return ending


@pytest.mark.fault(2, 7)
@pytest.mark.parametrize("what", ["rename", "undo"])
def test_every_operation_of_the_disk_fails_once(commands, folders, tmp_path, what, fault, figures):
    for at in count(1):
        root = tmp_path / "raw"
        ending = check(commands, folders, root, what, below=root, fault=fault.letter, at=at)
        if not ending.met:
            break
        assert not fault.harmless or ending.code == 0, ending.said
    assert at > (3 if fault.harmless else 8)
    figures(operations=at - 1, mixtures=0)


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    "kills", [10, pytest.param(500, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))]
)
@pytest.mark.parametrize("what", ["rename", "undo"])
def test_killed_at_random_instants(commands, folders, tmp_path, what, kills, figures):
    kills = figures.part(kills)
    start = time.monotonic()
    check(commands, folders, tmp_path / "raw", what)
    whole = (time.monotonic() - start) / 3  # about as long as one command takes
    draw, killed, runs = random.Random(0), 0, 0
    while killed < kills:
        ending = check(commands, folders, tmp_path / "raw", what, kill_after=draw.uniform(0, whole))
        killed += ending.code == -9
        runs += 1
        assert runs < 20 * kills
    figures(kills=killed, differing_bytes=0)
