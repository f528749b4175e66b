"""What writers of the predict loop share: one file, journals beside it, a bar, a clean end."""

import contextlib
import time
from abc import abstractmethod
from typing import Generic, Protocol, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.callbacks.unitbar import UnitBar
from elf.errors import ElfError


class Closable(Protocol):
    """What is written into."""

    def close(self) -> None:
        """Settle what was written, and let others in."""


File = TypeVar("File", bound=Closable)
Writer = TypeVar("Writer", bound=Closable)


class RecordWriter(Callback, Generic[File, Writer]):
    """Writes what the batches of a predict loop return.

    Of several processes the first writes the file, into which it takes the others' journals.
    """

    def __init__(self) -> None:
        self._file: File | None = None  # of the first process
        self._writer: Writer | None = None  # of each
        self._start = 0.0
        self._bar: UnitBar | None = None

    @abstractmethod
    def total(self, trainer: Trainer) -> int:
        """Return how many units this process has to do."""

    @property
    def elapsed(self) -> float:
        """Seconds since the loop began, above 0."""
        return max(time.perf_counter() - self._start, 1e-9)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and, in place of Lightning's bar of batches, one of units."""
        self._start = time.perf_counter()
        if self._bar is not None:
            self._bar.start(self.total(trainer))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close what is open; what was written stays."""
        self._close_bar()
        for opened in (self._writer, self._file):
            if opened is not None:
                # the first error is the one to tell
                with contextlib.suppress(ElfError):
                    opened.close()
        self._writer = self._file = None

    def _close_own(self) -> None:
        """Close this process's journal, if it has one, and the bar."""
        self._close_bar()
        if self._writer is not None and self._writer is not self._file:
            self._writer.close()
        self._writer = None

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
