"""A bar of what a predict loop works on, in place of Lightning's bar of batches."""

from typing import Any

from lightning.pytorch import Trainer
from tqdm import tqdm


class UnitBar:
    """Counts pictures, or prompts, in the first process; where bars are off it shows nothing.

    Args:
        trainer: Whose own bar is put away.
        does: What is done.
        units: Of what.
    """

    def __init__(self, trainer: Trainer, does: str, units: str) -> None:
        usual = trainer.progress_bar_callback
        self._shown = usual is not None and trainer.is_global_zero
        if usual is not None:
            usual.disable()
        self._does, self._units = does, units
        self._bar: tqdm[Any] | None = None

    def start(self, total: int) -> None:
        """Begin with none of so many."""
        if self._shown:
            self._bar = tqdm(
                total=total, desc=self._does, unit=f" {self._units}", dynamic_ncols=True
            )

    def show(self, done: int, note: str) -> None:
        """Show how many are done, and a note."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave what it shows; harmless when repeated."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
