"""Writes labels while the predict loop runs."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.errors import ElfError
from elf.manifest import MANIFEST, QUARANTINE, LabelFolder


@runtime_checkable
class PictureSource(Protocol):
    """A datamodule that says what a run is about."""

    labels: str
    paths: Sequence[str]
    skipped: int
    duplicates: Mapping[str, str]


@dataclass
class LabelSummary:
    """What a run did, in pictures.

    Attributes:
        labelled: Given a label.
        without_caption: Of those, the ones whose caption failed.
        quarantined: Damaged or unreadable, with the reason in the quarantine file.
        skipped: Labelled by an earlier run.
        duplicates: Files with the same bytes as another, by path, and that one's path.
        total: Labels in the manifest now.
    """

    labelled: int = 0
    without_caption: int = 0
    quarantined: int = 0
    skipped: int = 0
    duplicates: Mapping[str, str] | None = None
    total: int = 0

    def lines(self, folder: str) -> list[str]:
        """Return the summary as text."""
        alone = f" ({self.without_caption} with tags alone)" if self.without_caption else ""
        text = [
            f"{self.labelled} pictures labelled{alone}, {self.skipped} skipped (labelled before), "
            f"{self.quarantined} in quarantine; {folder}/{MANIFEST} holds {self.total}"
        ]
        if self.quarantined:
            text.append(f"what is wrong with those in quarantine: {folder}/{QUARANTINE}")
        copies = sorted((self.duplicates or {}).items())
        text += [f"{path} has the same bytes as {first}: labelled once" for path, first in copies]
        return text


class LabelWriter(Callback):
    """Writes ``{id}.txt`` and the manifest into the datamodule's labels folder.

    A batch is on the disk before the next one is computed; a summary is printed at the end.

    Attributes:
        summary: What the run did.
    """

    def __init__(self) -> None:
        self.summary = LabelSummary()
        self._folder: LabelFolder | None = None
        self._seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the folder before a model is loaded: it may be in use by another process.

        Raises:
            ElfError: If it is, or if the trainer's settings or its data do not fit.
        """
        if stage != "predict":
            return
        if trainer.world_size != 1:
            raise ElfError(
                f"trainer.devices: {trainer.world_size} processes cannot write one labels folder; "
                "set trainer.devices: 1"
            )
        source = _source(trainer)
        self._folder = LabelFolder(source.labels)
        self._seen = 0
        self.summary = LabelSummary(
            skipped=source.skipped, duplicates=source.duplicates, total=len(self._folder.ids)
        )

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
        assert self._folder is not None
        for record in outputs:
            self._seen += 1
            if "reason" in record:
                self._folder.quarantine(record)
                self.summary.quarantined += 1
            elif self._folder.write(record):
                self.summary.labelled += 1
                status = record["attributes"]["florence_status"]
                self.summary.without_caption += status not in ("ok", "off")
        self._folder.sync()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the folder and print the summary."""
        if stage != "predict" or self._folder is None:
            return
        if self._seen == len(_source(trainer).paths):
            self._folder.finish()
        self._folder.close()
        self.summary.total = len(self._folder.ids)
        trainer.print("\n".join(self.summary.lines(str(self._folder.folder))))
        self._folder = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Settle the folder; what was written stays."""
        if self._folder is not None:
            # the first error is the one to tell
            with contextlib.suppress(ElfError):
                self._folder.close()
            self._folder = None


def _source(trainer: Trainer) -> PictureSource:
    source = getattr(trainer, "datamodule", None)
    if not isinstance(source, PictureSource):
        raise ElfError("data.class_path: LabelWriter needs a folder of pictures: PictureFolder")
    return source
