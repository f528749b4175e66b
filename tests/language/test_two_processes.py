"""A language model in two real processes: the same losses and validation as in one."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elf import trainer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and spawn differ there")


def arguments(lessons: list[str], folder: Path, *more: str) -> list[str]:
    return [
        *lessons,
        f"--trainer.default_root_dir={folder}",
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=4",
        "--trainer.enable_progress_bar=false",
        "--model.optimizer.class_path=torch.optim.SGD",  # AdamW makes whole steps of rounding
        "--model.optimizer.init_args.lr=0.5",
        *more,
    ]


def metrics(folder: Path) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


@pytest.mark.fault(10)
@pytest.mark.slow  # tests/launching has pictures in two processes
def test_two_processes_train_what_one_does(lessons: list[str], tmp_path: Path) -> None:
    """Two processes with one row a batch and an accumulation of two: one step's four rows."""
    trainer.fit(arguments(lessons, tmp_path / "one", "--data.batch_size=4"))
    options = (
        "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=1",
        "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=8",
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "elf", "fit", *arguments(lessons, tmp_path / "two", *options)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert two["train/grad_norm"] == pytest.approx(one["train/grad_norm"], rel=1e-4)
    assert len(one["train/grad_norm"]) == 4
    for key in ("val/loss", "val/loss_base", "val/accuracy", "val_trained/ratio"):
        assert two[key] == pytest.approx(one[key], abs=1e-5), key
        assert one[key]
