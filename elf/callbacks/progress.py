"""How far a training is, in optimizer steps of the whole run."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from elf.training.arrivals import Arrivals

EVERY = 0.5
"""Seconds between two looks at the metrics."""


class StepBar(ProgressBar):
    """One bar for the run, from where it begins or goes on, and one within for each validation.

    Lightning's own counts the batches of an epoch, and a small set has hundreds of these.
    """

    looks_itself = True
    """It takes the loss from the metrics, now and then; it need not be told each."""

    def __init__(self) -> None:
        super().__init__()
        self.validating = "validation"  # what the second bar is called
        self._shown = True
        self._steps: tqdm[Any] | None = None
        self._batches: tqdm[Any] | None = None
        self._looked = 0.0
        self._losses: Arrivals[None] = Arrivals()
        self._loss: float | None = None

    def disable(self) -> None:
        """Show nothing from here on."""
        self._shown = False

    def enable(self) -> None:
        """Show the bars of what begins from here on."""
        self._shown = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        tqdm.write(kwargs.get("sep", " ").join(map(str, args)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the steps that are done."""
        self._losses, self._loss = Arrivals(), None
        total = trainer.estimated_stepping_batches
        self._steps = self._bar(
            desc="training",
            total=int(total) if math.isfinite(total) else None,
            initial=trainer.global_step,
            unit=" steps",
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Count a step, if the batch was the last of one."""
        bar = self._steps
        if bar is None or trainer.global_step == bar.n:
            return
        last = trainer.global_step == bar.total
        if last or time.monotonic() - self._looked >= EVERY:
            bar.set_postfix_str(self._metrics(trainer, pl_module, last), refresh=False)
            self._looked = time.monotonic()
        bar.update(trainer.global_step - bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the last state on the screen."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the last state above the error."""
        self._close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a second bar."""
        if not trainer.sanity_checking:
            total = sum(trainer.num_val_batches)
            bounded = int(total) if math.isfinite(total) else None
            self._batches = self._bar(
                desc=self.validating, total=bounded, unit=" batches", leave=False
            )

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Count a batch."""
        if self._batches is not None:
            self._batches.update()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the second bar away."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _bar(self, **options: Any) -> "tqdm[Any] | None":
        if not (self._shown and self.trainer.is_global_zero):
            return None
        return tqdm(dynamic_ncols=True, disable=None, **options)

    def _close(self) -> None:
        for bar in (self._batches, self._steps):
            if bar is not None:
                bar.close()
        self._batches = self._steps = None

    def _metrics(self, trainer: Trainer, pl_module: LightningModule, last: bool) -> str:
        """Return what the bar says; the loss may be of a look ago, as nothing waits for it."""
        values = self.get_metrics(trainer, pl_module)
        values.pop("v_num", None)
        if "train/loss" in trainer.callback_metrics:
            self._losses.send(trainer.callback_metrics["train/loss"], None)
        for loss, _ in self._losses.take(wait=last):
            self._loss = float(loss)
        if self._loss is not None:
            values = {"train/loss": self._loss, **values}
        shown = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        )
        return ", ".join([f"epoch {trainer.current_epoch}", *shown])
