"""The data of a language model's training: rows for `elf prepare`, cached tokens for `elf fit`."""

from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule

from elf.datamodules.textloader import HeldOutText, Rows, TextLoader
from elf.errors import ElfError
from elf.language.packing import length_buckets, pack
from elf.language.preparing import prepare_tokens
from elf.language.runsettings import read_template
from elf.language.settings import TextSettings, TrainOn, Truncation
from elf.language.store import TokenStore
from elf.language.textsummary import TextSummary
from elf.language.tokenizing import tokenizer_hash
from elf.training.epoch import Indices
from elf.training.validationsets import HELD_OUT, TRAINED


class TextDataModule(LightningDataModule):
    """Trains from the tokens that `elf prepare` makes with the same settings.

    Args:
        files: JSON-lines files of rows, tars of them, or folders: of chats (``messages``), of
            ``prompt`` and ``completion``, or of plain ``text``.
        tokens: Folder of the cached tokens.
        length: Tokens of a row; of a document at most.
        train_on: Whose tokens are learnt: every completion (each turn of the assistant, all of a
            plain text), the last turn alone, or everything.
        truncation: What becomes of longer documents: they end with the last turn that fits whole
            (plain text is split), or are cut.
        chat_template: File of a template to use instead of the tokenizer's.
        packing: Several documents share a row, none of which sees another; else rows of similar
            lengths are padded.
        length_step: Without packing, row lengths are multiples of it.
        held_out: The share of documents kept for validation, 0-1.
        validate_trained: How many of the training documents, the same in each run, the loss is
            measured on beside those held out; as many as these if not given.
        batch_size: Rows a step and device.
        remainder: The last step of an epoch is filled with its first rows, or dropped.
        seed: Of the order.

    Raises:
        ElfError: If a value is out of its range, with the key.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        files: list[str] = [],  # noqa: B006 (read only)
        tokens: str = "data/tokens",
        length: int = 1024,
        train_on: TrainOn = "completion",
        truncation: Truncation = "whole",
        chat_template: str | None = None,
        packing: bool = True,
        length_step: int = 64,
        held_out: float = 0.05,
        validate_trained: int | None = None,
        batch_size: int = 1,
        remainder: Literal["fill", "drop"] = "fill",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for key, number, least in (
            ("batch_size", batch_size, 1),
            ("length_step", length_step, 1),
            ("validate_trained", 0 if validate_trained is None else validate_trained, 0),
        ):
            if number < least:
                raise ElfError(f"data.{key} {number} is too small: at least {least}")
        self.files, self.tokens = files, tokens
        self.packing, self.length_step = packing, length_step
        self.validate_trained = validate_trained
        self.batch_size, self.remainder, self.seed = batch_size, remainder, seed
        self.settings = TextSettings(
            length, train_on, truncation, held_out, read_template(chat_template)
        )
        self.store: TokenStore | None = None
        self._packed: Rows | None = None

    def prepare_tokens(self, module: Any) -> TextSummary:
        """Bring the cached tokens up to date with the files.

        Args:
            module: A ``LanguageModule``, whose tokenizer is used.

        Raises:
            ElfError: If there are no files, or a row cannot be trained on.
        """
        base = self._base(module)
        if not self.files:
            raise ElfError("data.files is empty; name .jsonl files, tars of rows, or folders")
        made = tokenizer_hash(base.tokenizer)
        return prepare_tokens(self.files, base.tokenizer, made, self.settings, self.tokens)

    def _base(self, module: Any) -> Any:
        base = getattr(module, "language", None)
        if base is None:
            raise ElfError("data: a TextDataModule is for a LanguageModule; set model.class_path")
        context = base.context
        if context is not None and self.settings.length > context:
            raise ElfError(
                f"data.length: {self.settings.length} tokens are more than the {context} that "
                f"{base.name} was made for; give as many at most"
            )
        window = base.window
        if self.packing and window is not None and self.settings.length > window:
            raise ElfError(
                f"data.length: the attention of {base.name} sees {window} tokens; pack rows of as "
                "many at most, or set data.packing to false"
            )
        return base

    def setup(self, stage: str) -> None:
        """Open what was prepared, and check that it was made for this config and model.

        Raises:
            ElfError: If it is missing, damaged, or stale; if the model reads no text.
        """
        base = self._base(self.trainer.lightning_module if self.trainer else None)
        self._pad = pad_token(base.tokenizer)
        if self.store is None:
            self.store = TokenStore.open(self.tokens, self.settings, tokenizer_hash(base.tokenizer))

    def train_dataloader(self) -> TextLoader:
        """Return this rank's training batches.

        Raises:
            ElfError: If no step can be filled.
        """
        world, rank = self._world()
        trainer: Any = self.trainer
        store = self._require()
        loader = TextLoader(
            self._trained_rows(),
            self.batch_size,
            trainer.accumulate_grad_batches if trainer else 1,
            self.seed,
            store.index_hash,
            world,
            rank,
            self.remainder == "drop",
            {"packing": self.packing, "remainder": self.remainder}
            | ({} if self.packing else {"length_step": self.length_step}),
        )
        self._refuse_part_steps(loader)
        if not len(loader):
            raise ElfError(
                f"data.remainder=drop leaves no step: there are {len(loader.rows)} rows, and a "
                f"step takes {loader.position.global_batch}; use fill or a smaller data.batch_size"
            )
        return loader

    def _refuse_part_steps(self, loader: TextLoader) -> None:
        """Refuse epochs that end within a step, whose tokens would then count too little."""
        trainer: Any = self.trainer
        limit = trainer.limit_train_batches if trainer else None
        if isinstance(limit, int) and limit < len(loader) and limit % loader.accumulation:
            raise ElfError(
                f"trainer.limit_train_batches: {limit} ends within a step of "
                f"{loader.accumulation} batches; give a multiple"
            )

    def batches_an_epoch(self) -> int:
        """Return how many training batches each rank has in an epoch."""
        return len(self.train_dataloader())

    def val_dataloader(self) -> list[HeldOutText]:
        """Return this rank's validation batches of each set that has documents."""
        store = self._require()
        number = self.validate_trained
        if number is None:
            number = len(store.validation)
        by_id = store.train[np.argsort(store.ids[store.train], kind="stable")]
        chosen = {HELD_OUT: store.validation, TRAINED: by_id[:number]}
        world, rank = self._world()
        return [
            HeldOutText(self._rows(members, alone=True), self.batch_size, world, rank, kind)
            for kind, members in chosen.items()
            if len(members)
        ]

    def _trained_rows(self) -> Rows:
        """Return the rows of training, packed once: a million documents take seconds."""
        if self._packed is None:
            self._packed = self._rows(self._require().train)
        return self._packed

    def _rows(self, members: Indices, alone: bool = False) -> Rows:
        store = self._require()
        lengths, length = store.lengths[members], self.settings.length
        if self.packing and not alone:
            bins = pack(lengths, length)
            packs = [members[bins[number]] for number in range(len(bins))]
            edges = np.full(len(bins), length, np.int64)
            return Rows(store, packs, edges, self._pad, packed=True)
        numbers, edges = length_buckets(lengths, length, self.length_step)
        return Rows(store, list(members[:, None]), edges[numbers], self._pad, packed=False)

    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer else (1, 0)

    def _require(self) -> TokenStore:
        assert self.store is not None, "setup was not called"
        return self.store


def pad_token(tokenizer: Any) -> int:
    """Return what fills rows up; nothing is learnt of it, so that any token will do."""
    found = tokenizer.pad_token_id
    if found is None:
        found = tokenizer.eos_token_id
    return 0 if found is None else int(found)
