"""The bar of a training, on a terminal that is a string."""

import functools
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from tqdm import tqdm

from elf.callbacks import StepBar, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Line(LightningModule):
    """Fits nothing: its loss is a number that its step gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss: torch.Tensor = self.weight.sum() + self.global_step
        self.log("train/loss", loss)  # Lightning would look at what is for a bar in each batch
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    eager = functools.partial(tqdm, file=shown, mininterval=0, miniters=1, ncols=100)
    monkeypatch.setattr(progress, "tqdm", lambda dynamic_ncols, **options: eager(**options))
    return shown


def fit(
    folder: Path, bar: StepBar, steps: int, more: tuple[Callback, ...] = (), **options: Any
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, callbacks=[bar, *more],
        enable_checkpointing=False, enable_model_summary=False, max_steps=steps, max_epochs=-1,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    batches = DataLoader(torch.zeros(4, 1))
    trainer.fit(Line(), batches, batches)
    return trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_it_counts_the_steps_of_the_whole_run(terminal: Terminal, tmp_path: Path) -> None:
    fit(tmp_path, StepBar(), 6, accumulate_grad_batches=2)
    lines = [line for line in terminal.getvalue().split("\r") if "training" in line]
    counts = [int(re.findall(r"(\d+)/6 \[", line)[0]) for line in lines]
    assert sorted(set(counts)) == list(range(7))
    assert counts == sorted(counts)
    assert "epoch 2, train/loss 5]" in lines[-1]
    assert "validation: 100%" in terminal.getvalue()
    assert " 4/4 [" in terminal.getvalue()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_run_that_goes_on_begins_where_it_was(terminal: Terminal, tmp_path: Path) -> None:
    class Resumed(Callback):
        def setup(self, trainer: Trainer, *_: Any, **__: Any) -> None:
            loop = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
            loop.optimizer.step.total.completed = 3

    fit(tmp_path, StepBar(), 5, (Resumed(),), limit_val_batches=0)
    first = next(line for line in terminal.getvalue().split("\r") if "training" in line)
    assert " 3/5 [" in first
    assert " 5/5 [" in terminal.getvalue()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_bar_that_is_disabled_shows_nothing(terminal: Terminal, tmp_path: Path) -> None:
    bar = StepBar()
    bar.disable()
    assert fit(tmp_path, bar, 2).global_step == 2
    assert not terminal.getvalue()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_an_error_leaves_the_bar_above_it(terminal: Terminal, tmp_path: Path) -> None:
    class Failing(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step == 2:
                raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fit(tmp_path, StepBar(), 5, (Failing(),), limit_val_batches=0)
    assert terminal.getvalue().endswith("\n")
    assert " 2/5 [" in terminal.getvalue()
