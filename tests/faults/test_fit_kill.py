"""Faults 9 and 11 of real `elf fit` processes: killed or told to end, then gone on with."""

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from elf import trainer
from elf.checkpoints import read_checkpoint

STEPS = 24


def arguments(training: list[str], folder: Path) -> list[str]:
    return [
        *training,
        f"--trainer.default_root_dir={folder}",
        f"--trainer.max_steps={STEPS}",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.val_check_interval=16",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 3}}]",
        "--model.adapter.dropout=0.2",
        "--data.workers=2",
    ]


def start(training: list[str], folder: Path) -> subprocess.Popen[bytes]:
    last = folder / "checkpoints" / "last.ckpt"
    more = ["--ckpt_path=last"] if last.exists() else []
    command = [sys.executable, "-m", "elf", "fit", *arguments(training, folder), *more]
    with open(folder.with_suffix(".log"), "wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def said(folder: Path) -> str:
    return folder.with_suffix(".log").read_text(errors="replace")


def changes(folder: Path) -> int:
    """When the last checkpoint was written; 0 if there is none."""
    path = folder / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.exists() else 0


def interrupt(training: list[str], folder: Path, number: int, draw: random.Random) -> int | None:
    """Start or go on, and send a signal some time after a new checkpoint; return the exit code.

    None if the run had ended by itself.
    """
    before = changes(folder)
    process = start(training, folder)
    while changes(folder) == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.3))
    if process.poll() is None:
        process.send_signal(number)
    process.wait(timeout=120)
    assert process.returncode in (0, 128 + number, -number), said(folder)
    if process.returncode == 128 + number:
        assert "saved at step" in said(folder)
    return process.returncode or None


def final(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def assert_equal(mine: Any, theirs: Any, where: str = "") -> None:
    """Require the same tensors and values, whatever they are nested in."""
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(mine, theirs), where
    elif isinstance(theirs, dict):
        assert mine.keys() == theirs.keys(), where
        for key, value in theirs.items():
            assert_equal(mine[key], value, f"{where}/{key}")
    elif isinstance(theirs, list | tuple):
        assert len(mine) == len(theirs), where
        for number, value in enumerate(theirs):
            assert_equal(mine[number], value, f"{where}/{number}")
    else:
        assert mine == theirs, where


def check(training: list[str], folder: Path, signals: list[int], seed: int, figures: Any) -> None:
    draw = random.Random(seed)
    trainer.fit(arguments(training, folder / "whole"))
    ends = []
    while signals:
        code = interrupt(training, folder / "parts", signals.pop(0), draw)
        ends.append(code)
        if code is None:
            break
    if ends[-1] is not None:
        process = start(training, folder / "parts")
        assert process.wait(300) == 0, said(folder / "parts")
    assert ends[0] is not None, "the run ended before it was interrupted"
    assert_same_run(folder)
    figures(interruptions=sum(end is not None for end in ends), ulp=0)


def assert_same_run(folder: Path) -> None:
    """Require the run in parts to have ended as the whole one."""
    mine, theirs = final(folder / "parts"), final(folder / "whole")
    assert mine["global_step"] == STEPS
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert_equal(mine[key], theirs[key], key)
    for path in (folder / "parts" / "checkpoints").iterdir():  # fault 3: all that is visible loads
        assert read_checkpoint(path)["global_step"] <= STEPS
    rows = [without_times(folder / name / "metrics.csv") for name in ("whole", "parts")]
    assert rows[1] == rows[0]


def without_times(path: Path) -> list[dict[str, str]]:
    """Rows of metrics less what depends on the clock; columns stand as they came."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: value for name, value in row.items() if not ("second" in name or "time" in name)}
        for row in rows
    ]


@pytest.mark.fault(3, 9, 11)
@pytest.mark.timeout(600)
def test_a_killed_and_a_terminated_run_end_as_an_undisturbed_one(
    training: list[str], tmp_path: Path, figures: Any
) -> None:
    check(training, tmp_path, [signal.SIGKILL, signal.SIGTERM], 0, figures)


@pytest.mark.fault(3, 9, 11)
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
def test_runs_that_are_interrupted_again_and_again(
    training: list[str], tmp_path: Path, seed: int, figures: Any
) -> None:
    draw = random.Random(seed)
    signals = draw.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], k=4)
    check(training, tmp_path, [int(number) for number in signals], seed, figures)


@pytest.mark.fault(10, 11)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_when_one_of_two_processes_is_told_to_end_both_do(
    training: list[str], tmp_path: Path
) -> None:
    pair = [*training, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2"]
    process = start(pair, tmp_path / "whole")
    assert process.wait(300) == 0, said(tmp_path / "whole")
    code = interrupt(pair, tmp_path / "parts", signal.SIGTERM, random.Random(0))
    assert code == 128 + signal.SIGTERM, said(tmp_path / "parts")
    process = start(pair, tmp_path / "parts")
    assert process.wait(300) == 0, said(tmp_path / "parts")
    assert_same_run(tmp_path)
