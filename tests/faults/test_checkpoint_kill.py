"""Fault 3: kill -9 while a checkpoint is written, the temporary folder on another file system."""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from elf.training.checkpoints import AtomicCheckpointIO, read_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are the fast way to kill")
SIZE = 1 << 18  # floats: a megabyte takes long enough to be hit


def write_for_ever(folder: Path, first: int, begun: int) -> None:
    """Write what a run does: a numbered checkpoint, the same as the last, the oldest removed."""
    io = AtomicCheckpointIO()
    step = first
    os.write(begun, b".")
    while True:
        step += 1
        checkpoint = {"elf": {}, "step": step, "state": torch.full((SIZE,), float(step))}
        io.save_checkpoint(checkpoint, folder / f"step-{step:06d}.ckpt")
        io.save_checkpoint(checkpoint, folder / "last.ckpt")
        for path in sorted(folder.glob("step-*.ckpt"))[:-2]:
            io.remove_checkpoint(path)


def kill_while_writing(folder: Path, delay: float, first: int) -> None:
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            write_for_ever(folder, first, begun)
        finally:
            os._exit(1)
    os.read(ready, 1)  # on a busy machine a fork takes its time
    os.close(ready), os.close(begun)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def check(folder: Path, kills: int, seed: int, figures: Any) -> None:
    draw = random.Random(seed)
    step = last = read = 0
    first = {"elf": {}, "step": 0, "state": torch.zeros(SIZE)}
    for _ in range(2):  # the second takes as long as one of many does
        start = time.monotonic()
        AtomicCheckpointIO().save_checkpoint(first, folder / "last.ckpt")
        whole = time.monotonic() - start
    for _ in range(kills):
        kill_while_writing(folder, draw.uniform(0, 5) * whole, step)
        found = [read_checkpoint(path) for path in folder.glob("*.ckpt")]
        newest = read_checkpoint(folder / "last.ckpt")["step"]
        assert newest >= last  # none that was there is lost
        for checkpoint in found:
            assert (checkpoint["state"] == checkpoint["step"]).all()
        read += len(found)
        step, last = max(checkpoint["step"] for checkpoint in found), newest
    assert step > kills / 10  # it did get something written between the kills
    figures(kills=kills, checkpoints_read=read, damaged=0)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder on another file system, where there is one."""
    if sys.platform == "linux" and os.access("/dev/shm", os.W_OK):
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")


@pytest.mark.fault(3)
def test_every_visible_checkpoint_is_whole(tmp_path: Path, elsewhere: None, figures: Any) -> None:
    check(tmp_path, 30, 0, figures)


@pytest.mark.fault(3)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_visible_checkpoint_is_whole_after_500_kills(
    tmp_path: Path, elsewhere: None, figures: Any
) -> None:
    check(tmp_path, figures.part(500), 1, figures)
