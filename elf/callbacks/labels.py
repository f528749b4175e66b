"""Writes labels while the predict loop runs, and says how it goes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer

from elf.callbacks.recordwriter import RecordWriter
from elf.callbacks.summary import LabelSummary
from elf.callbacks.unitbar import UnitBar
from elf.errors import ElfError
from elf.labels.journal import Journal
from elf.labels.manifest import LabelFolder
from elf.processes import first_opens, gather


@runtime_checkable
class PictureSource(Protocol):
    """A datamodule that says what a run is about."""

    labels: str
    paths: Sequence[str]
    skipped: int
    duplicates: Mapping[str, str]


class LabelWriter(RecordWriter[LabelFolder, LabelFolder | Journal]):
    """Writes ``{id}.txt`` and the manifest into the datamodule's labels folder.

    A batch is on the disk before the next one is computed; a summary is printed at the end. Of
    several processes the first writes the manifest, into which it takes the others' journals.

    Attributes:
        summary: What the run did, in all its processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.summary = LabelSummary()
        self._seen = 0

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
        self._writer = self._file = folder
        if trainer.world_size > 1:
            self._writer = Journal(source.labels, trainer.global_rank)
        self._bar = UnitBar(trainer, "labelling", "pictures")
        self._seen = 0
        self.summary = LabelSummary(skipped=source.skipped, duplicates=dict(source.duplicates))

    def total(self, trainer: Trainer) -> int:
        """Return how many pictures this process has to label."""
        return len(_source(trainer).paths)

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
            "all": self.elapsed,
        }
        if self._bar is not None:
            self._bar.show(self._seen, f"limited by {summary.limit()}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder and print the summary."""
        if stage != "predict" or self._writer is None:
            return
        self._close_own()
        whole = self._seen == self.total(trainer)
        shares = gather((self.summary, whole))  # from here on all journals are closed
        self.summary = LabelSummary.of([summary for summary, _ in shares])
        if self._file is not None:
            if len(shares) > 1:
                self._file.take_in()
            if all(whole for _, whole in shares):
                self._file.finish()
            self._file.close()
            self.summary.total = len(self._file.ids)
            self.summary.dropped = len(self._file.dropped)
            trainer.print("\n".join(self.summary.lines(str(self._file.folder))))
            self._file = None


def _source(trainer: Trainer) -> PictureSource:
    source = getattr(trainer, "datamodule", None)
    if not isinstance(source, PictureSource):
        raise ElfError("data.class_path: LabelWriter needs a folder of pictures: PictureFolder")
    return source
