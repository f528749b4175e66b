"""Faults 9 and 11 of real `elf fit` processes: killed or told to end, then gone on with."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from elf import trainer

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


def check(
    training: list[str], folder: Path, signals: list[int], seed: int, figures: Any, same: Any
) -> None:
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
    same(folder / "whole", folder / "parts", STEPS)
    figures(interruptions=sum(end is not None for end in ends), ulp=0)


@pytest.mark.fault(3, 9, 11)
@pytest.mark.timeout(600)
def test_a_killed_and_a_terminated_run_end_as_an_undisturbed_one(
    training: list[str], tmp_path: Path, figures: Any, assert_same_run: Any
) -> None:
    signals: list[int] = [signal.SIGKILL, signal.SIGTERM]
    check(training, tmp_path, signals, 0, figures, assert_same_run)


@pytest.mark.fault(3, 9, 11)
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
def test_runs_that_are_interrupted_again_and_again(
    training: list[str], tmp_path: Path, seed: int, figures: Any, assert_same_run: Any
) -> None:
    draw = random.Random(seed)
    signals = draw.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], k=4)
    check(training, tmp_path, [int(number) for number in signals], seed, figures, assert_same_run)


@pytest.mark.fault(10, 11)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_when_one_of_two_processes_is_told_to_end_both_do(
    training: list[str], tmp_path: Path, assert_same_run: Any
) -> None:
    pair = [*training, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2"]
    process = start(pair, tmp_path / "whole")
    assert process.wait(300) == 0, said(tmp_path / "whole")
    code = interrupt(pair, tmp_path / "parts", signal.SIGTERM, random.Random(0))
    assert code == 128 + signal.SIGTERM, said(tmp_path / "parts")
    process = start(pair, tmp_path / "parts")
    assert process.wait(300) == 0, said(tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts", STEPS)
