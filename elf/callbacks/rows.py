"""Rows of figures that are written when the GPU has come to them, and not before."""

from abc import abstractmethod
from contextlib import suppress
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LateRows(Callback):
    """A callback whose rows wait for the device, and the training does not wait for the rows.

    All that are left are written before a validation, a checkpoint and the end, each of which waits
    for the device anyway: when a checkpoint is on disk, the rows before it are.
    """

    @abstractmethod
    def write_rows(self, trainer: Trainer, wait: bool) -> None:
        """Write the rows that are complete; all of them, if they are to be waited for."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is left, before the validation's own figures."""
        self.write_rows(trainer, wait=True)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write what is left: a run that goes on from here begins after it."""
        self.write_rows(trainer, wait=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is left."""
        self.write_rows(trainer, wait=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what is left, if that can be: what went wrong is on its way to the user already."""
        with suppress(Exception):
            self.write_rows(trainer, wait=True)
