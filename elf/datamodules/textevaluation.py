"""What an evaluation of a language model looks at: prompts, held-out documents, what was known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule

from elf.checked import read_checked
from elf.datamodules.text import pad_token
from elf.datamodules.textloader import HeldOutText, Rows
from elf.errors import ElfError
from elf.evaluation.asked import Asked, read_asked, read_forgetting, write_rows
from elf.export.reading import section_of_run
from elf.language.asking import Asking
from elf.language.packing import length_buckets
from elf.language.preparing import prepare_tokens
from elf.language.runsettings import settings_of_run
from elf.language.settings import TextSettings, TrainOn
from elf.language.store import META, REMEDY, TokenStore
from elf.language.textbytes import trained_bytes
from elf.language.tokenizing import tokenizer_hash
from elf.training.epoch import Indices
from elf.training.validationsets import HELD_OUT, TRAINED, UNRELATED

STEP = 64
"""Tokens that the lengths of rows are multiples of."""


@dataclass(frozen=True)
class Part:
    """Documents of a store that are measured, and as what."""

    name: str
    kind: str
    store: TokenStore
    members: Indices


class TextEvaluationSet(LightningDataModule):
    """Batches of two tasks, for each adapter: ``answer`` prompts, and ``read`` documents.

    Documents are made as the first adapter's run made them, by its configuration.

    Args:
        prompts: .jsonl files of prompts (``messages`` or ``prompt``), with the right answer under
            ``reference`` where there is one.
        tokens: Folder of tokens whose held-out documents are measured, and as many that were
            trained on; null takes that of the first adapter's run.
        documents: Files of more documents, in the forms of training: .jsonl, tars, or folders.
        forgetting: .jsonl files of what is not to be forgotten: prompts with a ``reference``, or
            documents.
        length: Tokens of a document at most; null takes the run's, of which longer ones are cut or
            split as there.
        train_on: Whose tokens are measured; null takes the run's.
        batch_size: Documents that are read at a time.

    Raises:
        ElfError: If a value is out of its range.
    """

    # As far as Lightning sees; the batches are shared out here.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        prompts: list[str] = [],  # noqa: B006 (read only)
        tokens: str | None = None,
        documents: list[str] = [],  # noqa: B006
        forgetting: list[str] = [],  # noqa: B006
        length: int | None = None,
        train_on: TrainOn | None = None,
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ElfError(f"data.batch_size {batch_size} is too small: at least 1")
        self.prompts, self.tokens = prompts, tokens
        self.documents, self.forgetting = documents, forgetting
        self.length, self.train_on = length, train_on
        self.batch_size = batch_size
        self.asked: list[Asked] = []
        self.encoded: list[list[int]] = []
        self.parts: list[Part] = []
        self.missing = ""  # why there are no held-out documents

    # --- once a machine ---------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Make tokens of documents that come as files; one process of each machine does."""
        module = self._module()
        files = {"documents": self.documents} if self.documents else {}
        _, rows = read_forgetting(self.forgetting, _plain(module))
        if rows:
            path = self._folder("forgetting.jsonl")
            write_rows(path, rows)
            files["forgetting"] = [str(path)]
        tokenizer = module.language.tokenizer
        for name, paths in files.items():
            made, folder = tokenizer_hash(tokenizer), self._folder(name)
            prepare_tokens(paths, tokenizer, made, self._settings(module), folder)

    def _folder(self, name: str) -> Path:
        trainer: Any = self.trainer
        return Path(trainer.default_root_dir) / "tokens" / name

    def _module(self) -> Any:
        module: Any = self.trainer.lightning_module if self.trainer else None
        if not hasattr(module, "plain_prompts"):
            raise ElfError("data: a TextEvaluationSet is for TextEvaluation; set model.class_path")
        return module

    def _settings(self, module: Any) -> TextSettings:
        """Return what decides documents that come as files; none of these is held out."""
        settings = settings_of_run(self._run(module), module.language.context)
        return replace(
            settings,
            held_out=0.0,
            length=self.length or settings.length,
            train_on=self.train_on or settings.train_on,
        )

    @staticmethod
    def _run(module: Any) -> dict[str, Any]:
        return section_of_run(module.paths[0], "data")

    # --- in each process --------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read prompts and open documents.

        Raises:
            ElfError: If a file is missing or a row makes no sense, or nothing is to be measured.
        """
        module = self._module()
        made = tokenizer_hash(module.language.tokenizer)
        self._pad = pad_token(module.language.tokenizer)
        self.parts = self._of_run(module, made)
        settings = self._settings(module)
        old, rows = read_forgetting(self.forgetting, _plain(module))
        for name, given, kind in (
            ("documents", self.documents, HELD_OUT),
            ("forgetting", rows, UNRELATED),
        ):
            if given:
                store = TokenStore.open(self._folder(name), settings, made)
                self.parts.append(Part(name, kind, store, store.train))
        if settings.chat_template is not None:  # who was trained with it is asked with it
            module.language.tokenizer.chat_template = settings.chat_template
        self.asked = read_asked(self.prompts)
        if not self.asked and not any(part.kind == HELD_OUT for part in self.parts):
            raise ElfError(f"data: nothing to measure: {self.missing}, or give data.prompts")
        self.asked += old
        asking, room = Asking(module.language), module.generation.max_new_tokens
        self.encoded = [
            asking.tokens(each.prompt.row, room, module.plain_prompts) for each in self.asked
        ]

    def _of_run(self, module: Any, made: str) -> list[Part]:
        """Return the documents that the run held out, and as many that it was trained on."""
        run = self._run(module)
        folder = self.tokens or run.get("tokens")
        self.missing = "no held-out documents; give data.tokens or data.documents"
        if folder is None:
            return []
        if self.tokens is None and not (Path(folder) / META).is_file():
            self.missing = f"the run's tokens are not in {folder}; {REMEDY} with its config.yaml"
            return []
        if run:
            settings = settings_of_run(run, module.language.context)
        else:
            settings = TextSettings(**read_checked(Path(folder) / META, REMEDY)["settings"])
        store = TokenStore.open(folder, settings, made)
        if not len(store.validation):
            self.missing = f"{folder} holds none out; set data.held_out in the run's config"
            return []
        by_id = store.train[np.argsort(store.ids[store.train], kind="stable")]
        chosen = {HELD_OUT: store.validation, TRAINED: by_id[: len(store.validation)]}
        return [Part("tokens", kind, store, each) for kind, each in chosen.items() if len(each)]

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the documents that are measured, by where they come from."""
        return {part.name: part.store.index_hash for part in self.parts}

    def sizes(self, tokenizer: Any, kind: str) -> dict[str, int]:
        """Return the bytes of text that are measured of each document, by its name."""
        found: dict[str, int] = {}
        for part in self.parts:
            if part.kind == kind:
                for member in part.members:
                    tokens, trained = part.store.document(int(member))
                    name = f"{int(part.store.ids[member]):016x}"
                    found[name] = trained_bytes(tokenizer, tokens.tolist(), trained.tolist())
        return found

    def test_dataloader(self) -> list[Any]:
        """Return this rank's loaders: of each adapter the prompts, then the documents."""
        trainer: Any = self.trainer
        world, rank = trainer.world_size, trainer.global_rank
        module = self._module()
        loaders: list[Any] = []
        for adapter in range(len(module.paths)):
            if self.encoded:
                size = module.generation.batch_size
                loaders.append(_Answer(self.encoded, size, adapter, world, rank))
            loaders += [
                _Read(HeldOutText(self._rows(part), self.batch_size, world, rank, part.kind),
                      part.store, adapter)
                for part in self.parts
            ]  # fmt: skip
        return loaders

    def _rows(self, part: Part) -> Rows:
        store, members = part.store, part.members
        length = int(store.meta["settings"]["length"])
        numbers, edges = length_buckets(store.lengths[members], length, STEP)
        return Rows(store, list(members[:, None]), edges[numbers], self._pad, packed=False)


def _plain(module: Any) -> bool:
    """Whether a prompt is continued as it stands."""
    return bool(module.plain_prompts or not module.language.tokenizer.chat_template)


class _Answer:
    """A rank's batches of prompts, by their numbers: those of similar lengths together."""

    def __init__(
        self, encoded: Sequence[Sequence[int]], size: int, adapter: int, world: int, rank: int
    ) -> None:
        order = sorted(range(len(encoded)), key=lambda number: len(encoded[number]))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        self._batches, self._adapter = batches[rank::world] or batches[:1], adapter

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for numbers in self._batches:
            yield {"task": "answer", "adapter": self._adapter, "numbers": numbers}


class _Read:
    """A loader of documents whose batches say what they are for, and of which tokens."""

    def __init__(self, loader: HeldOutText, store: TokenStore, adapter: int) -> None:
        self._loader, self._store, self._adapter = loader, store, adapter

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        made = {"tokenizer": self._store.meta["tokenizer"], **self._store.meta["settings"]}
        for batch in self._loader:
            yield {"task": "read", "adapter": self._adapter, "made": made, **batch}
