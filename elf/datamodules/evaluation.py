"""What an evaluation looks at: prompts × seeds, training pictures, held-out samples."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from elf.datamodules.loader import HeldOutLoader
from elf.datamodules.reading import CachedExamples
from elf.datamodules.shards import bucket_numbers
from elf.errors import ElfError
from elf.images import decode
from elf.prepared import read_prepared
from elf.shards import Entry, Reader, read_index


class EvaluationSet(LightningDataModule):
    """Batches of three tasks: ``generate``; ``reference`` and ``held_out`` if there are shards.

    Args:
        prompts: What to generate; with the trigger where the adapter is to show itself.
        seeds: Seeds for each prompt; base and adapter share them.
        shards: The folder that ``elf prepare`` wrote; None leaves out what needs it.
        references: How many training pictures to compare with, evenly spread; at most all.
        batch_size: Pictures generated, embedded or measured at a time.

    Raises:
        ElfError: If there is no prompt or no seed.
    """

    def __init__(
        self,
        prompts: list[str],
        seeds: list[int] = [0, 1],  # noqa: B006 (read only)
        shards: str | None = None,
        references: int = 64,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        for key, values in (("prompts", prompts), ("seeds", seeds)):
            if not values:
                raise ElfError(f"data.{key} is empty; give at least one")
            if len(set(values)) != len(values):
                raise ElfError(f"data.{key} holds one twice; each pair is measured once")
        if batch_size < 1:
            raise ElfError(f"data.batch_size {batch_size} is too small: at least 1")
        self.prompts = prompts
        self.seeds = seeds
        self.shards = shards
        self.references = references
        self.batch_size = batch_size

    @property
    def text_mode(self) -> str | None:
        """``live`` if the shards hold no text states; None leaves it to the adapter."""
        if self.shards is None:
            return None
        return "live" if read_prepared(Path(self.shards)).text_states == "live" else None

    def test_dataloader(self) -> list[Any]:
        """Return the loaders of the three tasks."""
        plan = [(prompt, seed) for prompt in self.prompts for seed in self.seeds]
        loaders: list[Any] = [
            DataLoader(_Plan(plan), batch_size=self.batch_size, collate_fn=_plan_batch)
        ]
        if self.shards is None:
            return loaders
        folder = Path(self.shards)
        prepared = read_prepared(folder)
        learnt = {example.id for example in prepared.train if not example.regularisation}
        pictures = TrainingPictures(folder, learnt)
        count = min(self.references, len(pictures))
        chosen = [index * len(pictures) // count for index in range(count)]
        loaders.append(
            DataLoader(
                Subset(pictures, chosen), batch_size=self.batch_size, collate_fn=_reference_batch
            )
        )
        if prepared.held_out:
            held_out = prepared.held_out
            dataset = CachedExamples(held_out, prepared.texts, Reader(folder))
            loaders.append(
                _Task(HeldOutLoader(dataset, bucket_numbers(held_out), self.batch_size), "held_out")
            )
        return loaders


class TrainingPictures(Dataset[Any]):
    """The pictures of the training shards, as they are trained on (resized and cropped).

    Args:
        folder: The shards' folder.
        ids: Of the pictures that are wanted: not of class pictures.
    """

    def __init__(self, folder: Path, ids: set[str]) -> None:
        self._reader = Reader(folder)
        self._entries: list[tuple[str, Entry]] = sorted(
            (
                (index.tar, entry)
                for index in map(read_index, sorted(folder.glob("train-*.tar")))
                for entry in index.entries
                if entry.key in ids
            ),
            key=lambda pair: pair[1].key,
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> Any:
        tar, entry = self._entries[number]
        suffix = next(name for name in entry.members if name not in ("txt", "json"))
        return decode(self._reader(tar, *entry.members[suffix]))


class _Plan(Dataset[Any]):
    def __init__(self, plan: list[tuple[str, int]]) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> tuple[str, int]:
        return self._plan[number]


class _Task:
    """A loader whose batches say what they are for."""

    def __init__(self, loader: HeldOutLoader, task: str) -> None:
        self._loader = loader
        self._task = task

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Any:
        for batch in self._loader:
            yield {"task": self._task, **batch}


def _plan_batch(pairs: list[tuple[str, int]]) -> dict[str, Any]:
    prompts, seeds = zip(*pairs, strict=True)
    return {"task": "generate", "prompt": list(prompts), "seed": list(seeds)}


def _reference_batch(pictures: list[Any]) -> dict[str, Any]:
    return {"task": "reference", "picture": pictures}
