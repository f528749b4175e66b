"""Writes labels while the predict loop runs, and says how it goes."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.callbacks.summary import LabelSummary
from elf.callbacks.unitbar import UnitBar
from elf.errors import ElfError
from elf.journal import Journal
from elf.manifest import LabelFolder
from elf.processes import first_opens, gather


@runtime_checkable
class PictureSource(Protocol):
    """A datamodule that says what a run is about."""

    labels: str
    paths: Sequence[str]
    skipped: int
    duplicates: Mapping[str, str]


class LabelWriter(Callback):
    """Writes ``{id}.txt`` and the manifest into the datamodule's labels folder.

    A batch is on the disk before the next one is computed; a summary is printed at the end. Of
    several processes the first writes the manifest, into which it takes the others' journals.

    Attributes:
        summary: What the run did, in all its processes.
    """

    def __init__(self) -> None:
        self.summary = LabelSummary()
        self._folder: LabelFolder | None = None
        self._writer: LabelFolder | Journal | None = None
        self._seen = 0
        self._start = 0.0
        self._bar: UnitBar | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the folder before a model is loaded: it may be in use by another process.

        Raises:
            ElfError: If it is, or if the trainer's data do not fit.
        """
        if stage != "predict":
            return
        source = _source(trainer)
        # no journal is opened before the old ones were taken in
        folder = first_opens(trainer.is_global_zero, lambda: LabelFolder(source.labels))
        self._writer = self._folder = folder
        if trainer.world_size > 1:
            self._writer = Journal(source.labels, trainer.global_rank)
        self._bar = UnitBar(trainer, "labelling", "pictures")
        self._seen = 0
        self.summary = LabelSummary(skipped=source.skipped, duplicates=dict(source.duplicates))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and, in place of Lightning's bar of batches, one of pictures."""
        self._start = time.perf_counter()
        if self._bar is not None:
            self._bar.start(len(_source(trainer).paths))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch's records; those with a ``reason`` go into quarantine."""
        assert self._writer is not None
        usable = []
        for record, item in zip(outputs, batch["items"], strict=True):
            self._seen += 1
            if "reason" in record:
                self._writer.quarantine(record)
                self.summary.quarantined += 1
            else:
                usable.append((record, not item["wants"]))
        new = self._writer.write(*(record for record, _ in usable))
        for (record, cached), is_new in zip(usable, new, strict=True):
            if is_new:
                self.summary.count(record, cached)
        self._writer.sync()
        self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        summary = self.summary
        summary.seconds = {
            "decode": getattr(getattr(_source(trainer), "loader", None), "waited", 0.0),
            **getattr(pl_module, "seconds", {}),
            "all": time.perf_counter() - self._start,
        }
        if self._bar is not None:
            self._bar.show(self._seen, f"limited by {summary.limit()}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder and print the summary."""
        if stage != "predict" or self._writer is None:
            return
        self._close_bar()
        if self._writer is not self._folder:
            self._writer.close()
        self._writer = None
        whole = self._seen == len(_source(trainer).paths)
        shares = gather((self.summary, whole))  # from here on all journals are closed
        self.summary = LabelSummary.of([summary for summary, _ in shares])
        if self._folder is not None:
            if len(shares) > 1:
                self._folder.take_in()
            if all(whole for _, whole in shares):
                self._folder.finish()
            self._folder.close()
            self.summary.total = len(self._folder.ids)
            self.summary.dropped = len(self._folder.dropped)
            trainer.print("\n".join(self.summary.lines(str(self._folder.folder))))
            self._folder = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Settle the folder; what was written stays."""
        self._close_bar()
        for writer in (self._writer, self._folder):
            if writer is not None:
                # the first error is the one to tell
                with contextlib.suppress(ElfError):
                    writer.close()
        self._writer = self._folder = None

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _source(trainer: Trainer) -> PictureSource:
    source = getattr(trainer, "datamodule", None)
    if not isinstance(source, PictureSource):
        raise ElfError("data.class_path: LabelWriter needs a folder of pictures: PictureFolder")
    return source
