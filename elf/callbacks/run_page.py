"""Charts and a page of the run, in its folder: what a logger's own pages show, without one."""

import time
import warnings
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.errors import ElfWarning
from elf.watching.page import write_page
from elf.watching.plots import write_plots

REST = 30.0
"""Seconds between two drawings, which take half of one."""


class RunPage(Callback):
    """Draws ``plots/*.png`` and writes ``index.html``: after validations, and at the run's end."""

    def __init__(self) -> None:
        self._drawn = -REST

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what there is, if that was not done just now."""
        if not trainer.sanity_checking and time.monotonic() - self._drawn >= REST:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the whole run."""
        self._draw(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Draw it up to where it was stopped; what went wrong otherwise is not to be hidden."""
        if isinstance(exception, SystemExit):
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        folder = Path(trainer.default_root_dir)
        if not (trainer.is_global_zero and (folder / "metrics.csv").is_file()):
            return
        try:
            write_plots(folder)
            write_page(folder)
        except Exception as error:  # a full disk, a file that somebody edited: no reason to stop
            warnings.warn(
                f"{folder}: the run's page was not drawn ({error})", ElfWarning, stacklevel=2
            )
        self._drawn = time.monotonic()
