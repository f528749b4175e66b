"""What an evaluation looks at: prompts × seeds, training pictures, held-out samples."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from PIL import Image

from elf.datamodules.loader import HeldOutLoader
from elf.datamodules.reading import CachedExamples
from elf.datamodules.shards import bucket_numbers, fixed_part, refuse_other_models
from elf.errors import ElfError
from elf.images import decode
from elf.preparation.prepared import Prepared, read_prepared
from elf.preparation.shards import Entry, Reader, read_index
from elf.training.validationsets import HELD_OUT, TRAINED


class EvaluationSet(LightningDataModule):
    """Batches of two tasks, for each adapter: ``generate``, and ``loss`` if there are shards.

    Args:
        prompts: What to generate; with the trigger where the adapter is to show itself.
        seeds: Seeds for each prompt; base and adapters share them.
        shards: The folder that ``elf prepare`` wrote; None leaves out what needs it.
        references: How many training pictures to compare with, evenly spread; all if not given. A
            copy of one that is left out is not found.
        batch_size: Pictures drawn, or measured for the loss, at a time.

    Raises:
        ElfError: If there is no prompt or no seed.
    """

    # As far as Lightning sees; the batches are shared out here.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        prompts: list[str],
        seeds: list[int] = [0, 1],  # noqa: B006 (read only)
        shards: str | None = None,
        references: int | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        for key, values in (("prompts", prompts), ("seeds", seeds)):
            if not values:
                raise ElfError(f"data.{key} is empty; give at least one")
            if len(set(values)) != len(values):
                raise ElfError(f"data.{key} holds one twice; each pair is measured once")
        for key, value in (("batch_size", batch_size), ("references", references)):
            if value is not None and value < 1:
                raise ElfError(f"data.{key} {value} is too small: at least 1")
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
        return "live" if self._prepared.text_states == "live" else None

    @cached_property
    def _prepared(self) -> Prepared:
        """What the shards hold, looked at once: to check all of it takes a while."""
        assert self.shards is not None
        return read_prepared(Path(self.shards))

    def refuse_other_models(self, models: Mapping[str, str]) -> None:
        """Refuse shards that other models made than those at hand, by their fingerprints.

        Raises:
            ElfError: If there are shards, and they are of others.
        """
        if self.shards is not None:
            refuse_other_models(self.shards, self._prepared, models)

    def training_pictures(self) -> "TrainingPictures | None":
        """Return the training pictures to compare with; None without shards."""
        if self.shards is None:
            return None
        prepared = self._prepared
        learnt = {example.id for example in prepared.train if not example.regularisation}
        return TrainingPictures(Path(self.shards), learnt, self.references)

    def test_dataloader(self) -> list[Any]:
        """Return this rank's loaders: of each adapter the plan, then pictures for the loss."""
        trainer: Any = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        adapters = len(getattr(trainer.lightning_module, "paths", [""])) if trainer else 1
        pairs = [(prompt, seed) for prompt in self.prompts for seed in self.seeds]
        loaders: list[Any] = []
        for adapter in range(adapters):
            loaders.append(_Generate(pairs, self.batch_size, adapter, world, rank))
            loaders += [_Loss(loader, adapter) for loader in self._loss_loaders(world, rank)]
        return loaders

    def _loss_loaders(self, world: int, rank: int) -> list[HeldOutLoader]:
        if self.shards is None:
            return []
        folder, prepared = Path(self.shards), self._prepared
        sets = {
            HELD_OUT: prepared.held_out,
            TRAINED: fixed_part(prepared.train, len(prepared.held_out)),
        }
        return [
            HeldOutLoader(
                CachedExamples(examples, prepared.texts, Reader(folder)),
                bucket_numbers(examples),
                self.batch_size,
                world,
                rank,
                kind=kind,
            )
            for kind, examples in sets.items()
            if examples
        ]


class TrainingPictures:
    """Pictures of the training shards, as they are trained on (resized and cropped).

    Args:
        folder: The shards' folder.
        ids: Of the pictures that are wanted: not of class pictures.
        count: How many of these, evenly spread; None for all.
    """

    def __init__(self, folder: Path, ids: set[str], count: int | None) -> None:
        self._reader = Reader(folder)
        entries: list[tuple[str, Entry]] = sorted(
            (
                (index.tar, entry)
                for index in map(read_index, sorted(folder.glob("train-*.tar")))
                for entry in index.entries
                if entry.key in ids
            ),
            key=lambda pair: pair[1].key,
        )
        count = len(entries) if count is None else min(count, len(entries))
        self._entries = [entries[number * len(entries) // count] for number in range(count)]

    def __len__(self) -> int:
        return len(self._entries)

    def id(self, number: int) -> str:
        """Return a picture's id."""
        return self._entries[number][1].key

    def __getitem__(self, number: int) -> Image.Image:
        """Return a picture, decoded."""
        tar, entry = self._entries[number]
        suffix = next(name for name in entry.members if name not in ("txt", "json"))
        return decode(self._reader(tar, *entry.members[suffix]))


class _Generate:
    """A rank's batches of a plan: prompts and seeds, with their numbers in it."""

    def __init__(
        self, pairs: list[tuple[str, int]], batch_size: int, adapter: int, world: int, rank: int
    ) -> None:
        starts = range(0, len(pairs), batch_size)
        numbers = [range(start, min(start + batch_size, len(pairs))) for start in starts]
        self._pairs, self._adapter = pairs, adapter
        self._batches = numbers[rank::world] or numbers[:1]  # made twice it is the same

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for numbers in self._batches:
            prompts, seeds = zip(*(self._pairs[number] for number in numbers), strict=True)
            yield {
                "task": "generate",
                "adapter": self._adapter,
                "number": list(numbers),
                "prompt": list(prompts),
                "seed": list(seeds),
            }


class _Loss:
    """A loader whose batches say what they are for."""

    def __init__(self, loader: HeldOutLoader, adapter: int) -> None:
        self._loader, self._adapter = loader, adapter

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._loader:
            yield {"task": "loss", "adapter": self._adapter, **batch}
