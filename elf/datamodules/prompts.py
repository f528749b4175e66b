"""Files of prompts, for the predict loop."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from elf.answers import answered
from elf.errors import ElfError
from elf.language.prompts import Place, Prompt, read_prompts
from elf.language.rowfiles import find_row_files

POOL = 64
"""Batches whose prompts are sorted by length together, so that little is padding."""


class PromptBatch:
    """Prompts that are answered together.

    No list: with a model in 16 bit (``bf16-true``) Lightning looks into those for tensors, and
    refuses the frozen dataclasses that it finds.

    Args:
        prompts: In order.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


class PromptLoader:
    """Batches of prompts, each read when it is its turn.

    Args:
        batches: The places of their prompts, and the digests of what stands there.
    """

    def __init__(self, batches: Sequence[Sequence[tuple[Place, str]]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[PromptBatch]:
        for batch in self.batches:
            yield PromptBatch([place.read(asked) for place, asked in batch])


class PromptDataModule(LightningDataModule):
    """All prompts of files that have no answer yet.

    Which are answered together does not depend on what is answered: a run that goes on makes the
    batches of one that was not interrupted. Of several processes each gets some batches.

    Args:
        files: .jsonl files, or folders of them: each row has ``messages``, a chat that ends with
            what is asked, or ``prompt``. Its ``id`` and other keys come back with the answer.
        answers: The file of the answers: prompts that it holds are skipped.
        batch_size: Prompts that the model sees at once.

    Attributes:
        order: The ids of all prompts, in order.
        total: How many of them this process answers.
        skipped: How many have an answer already, for all processes.
        copies: Rows that are the same as an earlier one, and that one's place.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        files: list[str] = [],  # noqa: B006 (read only)
        answers: str = "data/answers.jsonl",
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ElfError(f"data.batch_size: {batch_size} is below 1")
        self.files, self.answers, self.batch_size = files, answers, batch_size
        self.order: list[str] = []
        self.total = self.skipped = 0
        self.copies: dict[str, str] = {}
        self._batches: list[list[tuple[Place, str]]] = []

    def setup(self, stage: str) -> None:
        """Read the prompts, and leave out copies and what is answered.

        Raises:
            ElfError: If a file or a row cannot be used, or one id is of several prompts.
        """
        known = answered(self.answers)
        found: dict[str, tuple[Place, str, int]] = {}
        self.copies = {}
        for path in find_row_files(self.files):
            if path.suffix.lower() == ".tar":
                raise ElfError(f"{path}: prompts are read from .jsonl files; unpack it into one")
            for prompt, place in read_prompts(path):
                self._refuse_another(prompt, place, known, found)
                if prompt.id in found:
                    self.copies[place.where] = found[prompt.id][0].where
                else:
                    found[prompt.id] = (place, prompt.asked, prompt.size)
        if not found:
            raise ElfError(f"data.files: {', '.join(self.files)} holds no prompts; give some")
        self.order = list(found)
        self.skipped = sum(key in known for key in found)
        rank = self.trainer.global_rank if self.trainer else 0
        world = self.trainer.world_size if self.trainer else 1
        batches = [
            [found[key][:2] for key in keys if key not in known]
            for keys in _by_length({key: size for key, (_, _, size) in found.items()}, self)
        ]
        self._batches = [batch for batch in batches if batch][rank::world]
        self.total = sum(map(len, self._batches))

    def _refuse_another(
        self,
        prompt: Prompt,
        place: Place,
        known: dict[str, str],
        found: dict[str, tuple[Place, str, int]],
    ) -> None:
        """Refuse a prompt that has the id of another one."""
        if known.get(prompt.id, prompt.asked) != prompt.asked:
            raise ElfError(
                f"{place.where}: {self.answers} has the answer to another row with the id "
                f"{prompt.id!r}; give the row an id of its own, or name another file in "
                "data.answers"
            )
        if prompt.id in found and found[prompt.id][1] != prompt.asked:
            raise ElfError(
                f"{place.where}: the id {prompt.id!r} is also that of {found[prompt.id][0].where}, "
                "another row; give each its own"
            )

    def predict_dataloader(self) -> PromptLoader:
        """Return the batches of what :meth:`setup` found."""
        if not self._batches:  # all is answered: that is no reason to warn
            warnings.filterwarnings("ignore", message="Total length of `.*` across ranks is zero")
        return PromptLoader(self._batches)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave batches where they are: they are words."""
        return batch


def _by_length(sizes: dict[str, int], data: PromptDataModule) -> Iterator[list[str]]:
    """Yield batches of prompts of about one length, nearly in their order."""
    keys, pool = list(sizes), POOL * data.batch_size
    for first in range(0, len(keys), pool):
        some = sorted(keys[first : first + pool], key=lambda key: sizes[key])
        for start in range(0, len(some), data.batch_size):
            yield some[start : start + data.batch_size]
