"""metrics.csv: on disk at once, whole at any instant, in step with the checkpoints."""

import csv
from pathlib import Path

import torch

from elf.loggers import MetricsFile, make_loggers

NAMES = ("metrics.csv", "speed.csv")


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_is_on_disk_when_it_is_logged(tmp_path: Path) -> None:
    log = MetricsFile(str(tmp_path))
    log.log_metrics({"train/loss": torch.tensor(0.5)}, step=0)
    log.log_metrics({"train/loss": 0.25}, step=1)
    assert rows(tmp_path) == [
        {"step": "0", "train/loss": "0.5"},
        {"step": "1", "train/loss": "0.25"},
    ]


def test_a_new_column_keeps_the_old_rows(tmp_path: Path) -> None:
    log = MetricsFile(str(tmp_path))
    log.log_metrics({"train/loss": 0.5}, step=0)
    log.log_metrics({"val/loss": 1.0}, step=0)
    log.log_metrics({"train/loss": 0.25, "lr": 1e-4}, step=1)
    assert rows(tmp_path) == [
        {"step": "0", "train/loss": "0.5", "val/loss": "1", "lr": ""},
        {"step": "1", "train/loss": "0.25", "val/loss": "", "lr": "0.0001"},
    ]


def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = MetricsFile(str(tmp_path))
    for step in range(5):
        first.log_metrics({"loss": step}, step=step)
    second = MetricsFile(str(tmp_path))
    second.rewind(3)
    second.log_metrics({"loss": 30}, step=3)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [
        ("0", "0"),
        ("1", "1"),
        ("2", "2"),
        ("3", "30"),
    ]


def test_csv_is_always_among_the_loggers(tmp_path: Path) -> None:
    names = {
        name: [type(logger).__name__ for logger in make_loggers(name, str(tmp_path))]
        for name in ("csv", "tensorboard", "wandb")
    }
    assert names == {
        "csv": ["MetricsFile"],
        "tensorboard": ["MetricsFile", "TensorBoardRun"],
        "wandb": ["MetricsFile", "WandbRun"],
    }


def test_what_a_clock_says_is_in_a_file_of_its_own(tmp_path: Path) -> None:
    log = MetricsFile(str(tmp_path))
    log.log_metrics({"speed/steps_per_s": 3.0, "memory/peak_gib": 1.5}, step=9)
    log.log_metrics({"train/loss": 0.5}, step=9)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss\n9,0.5\n"
    assert (tmp_path / "speed.csv").read_text().splitlines() == [
        "step,speed/steps_per_s,memory/peak_gib",
        "9,3,1.5",
    ]
    log.rewind(9)
    assert [len((tmp_path / name).read_text().splitlines()) for name in NAMES] == [1, 1]
