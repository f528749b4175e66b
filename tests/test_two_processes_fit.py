"""Training in two real processes: the same global batches, the same losses, one validation loss."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elf import trainer
from elf.training.checkpoints import read_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and spawn differ there")


def arguments(training: list[str], folder: Path, *more: str) -> list[str]:
    return [
        *training,
        f"--trainer.default_root_dir={folder}",
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
        "--model.ema.decay=0.9",
        "--model.adapter.dropout=0",  # each process draws its own
        # not AdamW, which makes whole steps of gradients that are mostly rounding
        "--model.optimizer.class_path=torch.optim.SGD",
        "--model.optimizer.init_args.lr=0.5",
        *more,
    ]


def two(training: list[str], folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run `elf fit` in two processes, which Lightning starts."""
    options = ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2", *more)
    return subprocess.run(
        [sys.executable, "-m", "elf", "fit", *arguments(training, folder, *options)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def metrics(folder: Path) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


@pytest.mark.slow
@pytest.mark.fault(10)
def test_two_processes_train_what_one_does(training: list[str], tmp_path: Path) -> None:
    trainer.fit(arguments(training, tmp_path / "one"))
    result = two(training, tmp_path / "two")
    assert result.returncode == 0, result.stderr[-3000:]
    one, other = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one.keys() == other.keys()
    assert len(one["train/loss"]) == 3
    assert "val/loss" in one and "val_trained/ratio" in one
    for key, values in one.items():
        if key != "step":
            assert other[key] == pytest.approx(values, abs=1e-6, rel=1e-4), key
    for key in ("val/loss", "val/loss_base", "val_trained/loss"):
        assert other[key] == pytest.approx(one[key], abs=1e-6), key
    # one process goes on with what two left, and the other way round is refused by no one
    trainer.fit(arguments(training, tmp_path / "two", "--trainer.max_steps=4", "--ckpt_path=last"))


@pytest.mark.slow
@pytest.mark.parametrize("init", ["lora_ga", "corda"])
def test_two_processes_begin_where_one_does(training: list[str], tmp_path: Path, init: str) -> None:
    """Each sees its own part of the samples that an adapter begins from."""
    options = (f"--model.adapter.init={init}", "--model.adapter.init_samples=12")
    trainer.fit(arguments(training, tmp_path / "one", *options))
    result = two(training, tmp_path / "two", *options)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("The adapter begins from 12 samples") == 1
    one, other = (metrics(tmp_path / name)["train/loss"] for name in ("one", "two"))
    assert len(one) == 3
    assert other == pytest.approx(one, abs=1e-6, rel=1e-4)
    states = [
        read_checkpoint(tmp_path / name / "checkpoints/last.ckpt")["state_dict"]
        for name in ("one", "two")
    ]
    for key in [key for key in states[0] if "lora_initial_" in key]:
        factors = [state[key] if key.endswith("A") else state[key].T for state in states]
        squares = [factor.T @ factor for factor in factors]  # whatever the signs of their rows
        torch.testing.assert_close(*squares, rtol=0, atol=1e-2 * float(squares[0].max()))


@pytest.mark.fault(12)
@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_both(
    training: list[str], tmp_path: Path
) -> None:
    result = two(training, tmp_path, "--model.optimizer.init_args.lr=1e30", "--trainer.max_steps=9")
    assert result.returncode != 0
    assert "the loss is" in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_two_processes_measure_what_one_does(training: list[str], tmp_path: Path) -> None:
    options = arguments(training, tmp_path, "--ckpt_path=all")
    trainer.fit([*options[:-1], "--model.validation_strata=2"])
    trainer.validate([*options, "--model.validation_strata=2"])
    one = (tmp_path / "validation.csv").read_text()
    result = subprocess.run(
        [sys.executable, "-m", "elf", "validate", *options, "--model.validation_strata=2",
         "--trainer.devices=2", "--trainer.strategy=ddp"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("val/loss") == 1, "the table is printed once"
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["2", "3"]
    assert (tmp_path / "validation.csv").read_text() == one
