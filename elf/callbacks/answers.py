"""Writes answers while the predict loop runs, and says how it goes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer

from elf.answers import AnswerLog, Identity, journal, quarantine
from elf.callbacks.recordwriter import RecordWriter
from elf.callbacks.unitbar import UnitBar
from elf.errors import ElfError
from elf.processes import first_opens, gather


@runtime_checkable
class PromptSource(Protocol):
    """A datamodule that says what is asked."""

    answers: str
    order: Sequence[str]
    total: int
    skipped: int
    copies: Mapping[str, str]


@runtime_checkable
class Answering(Protocol):
    """A module that says who answers, and how many tokens it made."""

    made: int

    @property
    def identity(self) -> Identity:
        """Who answers, and how."""


class AnswerWriter(RecordWriter[AnswerLog, AnswerLog]):
    """Appends answers to the datamodule's file.

    A batch is on the disk before the next one is computed; a summary is printed at the end. Of
    several processes the first writes the file, into which it takes the others' journals.
    """

    def __init__(self) -> None:
        super().__init__()
        self._refused: list[dict[str, Any]] = []
        self._endings: Counter[str] = Counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the file before a model is loaded: it may be in use, or another model's.

        Raises:
            ElfError: If it is, or if the trainer's data or module do not fit.
        """
        if stage != "predict":
            return
        source, identity = _source(trainer), _identity(pl_module)
        # no journal is opened before the old ones were taken in
        file = first_opens(trainer.is_global_zero, lambda: _opened(source.answers, identity))
        self._writer = self._file = file
        if file is None:
            self._writer = AnswerLog(journal(source.answers, trainer.global_rank), identity)
        self._bar = UnitBar(trainer, "answering", "prompts")
        self._refused, self._endings = [], Counter()

    def total(self, trainer: Trainer) -> int:
        """Return how many prompts this process has to answer."""
        return _source(trainer).total

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch's answers; those with a ``reason`` are told at the end."""
        assert self._writer is not None and isinstance(pl_module, Answering)
        answers = [record for record in outputs if "reason" not in record]
        self._refused += [record for record in outputs if "reason" in record]
        self._writer.write(*answers)
        self._endings.update(record["ended"] for record in answers)
        if self._bar is not None:
            done = self._endings.total() + len(self._refused)
            self._bar.show(done, f"{pl_module.made / self.elapsed:,.0f} tokens/s")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the file and print the summary."""
        if stage != "predict" or self._writer is None:
            return
        assert isinstance(pl_module, Answering)
        source = _source(trainer)
        self._close_own()
        whole = self._endings.total() + len(self._refused) == source.total
        # from here on all journals are closed
        shares = gather((self._endings, self._refused, whole, pl_module.made))
        if self._file is None:
            return
        endings, refused, wholes, made = map(list, zip(*shares, strict=True))
        self._file.take_in()
        if all(wholes):
            self._file.finish(source.order, [record for share in refused for record in share])
        self._file.close()
        lines = _summary(source, endings, sum(map(len, refused)), len(self._file.ids))
        if made := sum(made):
            lines.append(f"{made:,} tokens, {made / self.elapsed:,.0f} a second")
        trainer.print("\n".join(lines))
        self._file = None


def _opened(path: str, identity: Identity) -> AnswerLog:
    file = AnswerLog(path, identity)
    try:
        file.take_in()
    except BaseException:
        file.close()
        raise
    return file


def _summary(
    source: PromptSource, endings: Sequence[Counter[str]], refused: int, held: int
) -> list[str]:
    each = [share.total() for share in endings]
    cut = sum(share["length"] for share in endings)
    how = f" ({cut} cut at max_new_tokens)" if cut else ""
    lines = [
        f"{sum(each)} prompts answered{how}, {source.skipped} skipped (answered before), "
        f"{refused} in quarantine; {source.answers} holds {held}"
    ]
    if len(each) > 1:
        lines.append(f"by process: {', '.join(map(str, each))} prompts")
    if refused:
        lines.append(f"what is wrong with those in quarantine: {quarantine(source.answers)}")
    copies = source.copies.items()
    return lines + [f"{where} is the same row as {first}: answered once" for where, first in copies]


def _source(trainer: Trainer) -> PromptSource:
    source = getattr(trainer, "datamodule", None)
    if not isinstance(source, PromptSource):
        raise ElfError("data.class_path: AnswerWriter needs prompts: PromptDataModule")
    return source


def _identity(module: LightningModule) -> Identity:
    if not isinstance(module, Answering):
        raise ElfError(
            f"model.class_path: {type(module).__name__} answers no prompts; take TextGenerator"
        )
    return module.identity
