"""Batches of an epoch that can be stopped anywhere and resumed exactly.

Lightning (2.6) keeps the state of any loader with ``state_dict`` and ``load_state_dict``, and what
it does with it decides the shape of ``EpochLoader``:

- It leaves an iterable that is no ``DataLoader`` alone: no sampler is replaced in DDP, whatever
  ``use_distributed_sampler`` says.
- It calls ``iter()`` to check that the loader is iterable, again when it sets the loop up, and
  again at each epoch, except just after a resume. So ``iter()`` must cost nothing and change
  nothing: it is a generator here, which reads the position when its first batch is asked for.
- With a ``__len__`` it fetches a batch only when it trains on it; without, one ahead, and that one
  would be lost. ``__len__`` must be the whole epoch's after a resume too, for Lightning adds the
  batches it had counted before.
- It saves the state of rank 0 and gives it to every rank, so the state knows no ranks.
- At the end of an epoch it may ask for a new iterator before it takes the old one's end. So an
  epoch ends when its last batch is handed over, not when the iterator is exhausted.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from elf.caches import Cached, Example
from elf.epoch import Words, batches, draw_seed, id_words, order, uniform
from elf.errors import ElfError
from elf.shards import Reader

Batch = dict[str, Any]


class Draw(NamedTuple):
    """One place of a batch.

    Attributes:
        sample: Its number among the examples.
        seed: What everything about it is drawn from.
        dropped: Whether it gets the empty caption.
        preserved: Whether it is to keep what the base predicts, and its caption has no trigger.
    """

    sample: int
    seed: int
    dropped: bool = False
    preserved: bool = False


class CachedExamples(Dataset[Any]):
    """Reads batches of cached samples; holds positions only, so that workers share nothing else.

    Args:
        examples: Where each sample's arrays lie.
        empty: The state of the empty caption.
        reader: Of the shards' folder.
    """

    def __init__(self, examples: Sequence[Example], empty: Cached, reader: Reader) -> None:
        self.examples = examples
        self.empty = empty
        self.reader = reader

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, draws: Sequence[Draw]) -> Batch | ElfError:
        """Return a batch of samples of one bucket, or what is wrong with them.

        An error travels as a value: torch would wrap an exception of a worker in its traceback.
        """
        try:
            return self._batch(draws)
        except ElfError as error:
            return error

    def _batch(self, draws: Sequence[Draw]) -> Batch:
        examples = [self.examples[draw.sample] for draw in draws]
        latents = torch.from_numpy(np.stack([e.latent.read(self.reader) for e in examples])).float()
        texts = [
            self._text(example, draw).read(self.reader)
            for example, draw in zip(examples, draws, strict=True)
        ]
        return {
            "id": [example.id for example in examples],
            "seed": torch.tensor([draw.seed for draw in draws], dtype=torch.int64),  # (B,)
            "preserved": torch.tensor([draw.preserved for draw in draws]),  # (B,)
            "latent_mean": latents[:, 0].contiguous(),  # (B, C, h, w)
            "latent_std": latents[:, 1].contiguous(),
            "text": torch.from_numpy(np.stack(texts)).float(),  # (B, T, D)
            # (B, 2) in px: height, width; height, width of the original; top, left
            "size": torch.tensor([example.size for example in examples]),
            "original_size": torch.tensor([example.original_size for example in examples]),
            "crop": torch.tensor([example.crop for example in examples]),
        }

    def _text(self, example: Example, draw: Draw) -> Cached:
        if draw.dropped:
            return self.empty
        return example.text_without_trigger if draw.preserved else example.text


class Plan(Protocol):
    """The batches still to be read, each a list of draws."""

    def __iter__(self) -> Iterator[list[Draw]]: ...
    def __len__(self) -> int: ...


class _Reading:
    """Reads planned batches with workers that stay alive from one pass to the next."""

    def __init__(self, dataset: CachedExamples, plan: Plan, workers: int) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            sampler=plan,
            batch_size=None,  # the plan's items are whole batches
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # torch draws a base seed for workers each pass; not from the global generator
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[Batch]:
        try:
            for batch in self._loader:
                if isinstance(batch, ElfError):
                    raise batch
                yield batch
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # the last three: a batch was on its way when the worker that holds it died
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise ElfError(
                "a process that reads the shards died (killed, perhaps for want of memory): "
                "start again with --ckpt_path last, or with a smaller data.workers"
            ) from error

    def close(self) -> None:
        """End the workers; they start again when needed.

        Left to the garbage collector, torch waits 5 s for each: the collector closes the queues
        before torch can say through them that the workers may go.
        """
        iterator, self._loader._iterator = self._loader._iterator, None
        if iterator is not None and self._loader.num_workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


class _Remaining:
    """The batches of the current epoch that were not handed over, as one rank draws them."""

    def __init__(
        self,
        words: Words,
        buckets: Sequence[int],
        global_batch: int,
        seed: int,
        world: int,
        rank: int,
        caption_dropout: float,
        prior_preservation: float,
        drop: bool,
    ) -> None:
        self.words, self.buckets = words, np.asarray(buckets)
        self.global_batch, self.seed, self.drop = global_batch, seed, drop
        self.world, self.rank = world, rank
        self.caption_dropout = caption_dropout
        self.prior_preservation = prior_preservation
        self.epoch = 0
        self.batch = 0
        counts = np.unique(self.buckets, return_counts=True)[1]
        self.length = batches(counts, global_batch, drop)

    def __len__(self) -> int:
        return self.length - self.batch

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, first = self.epoch, self.batch
        plan = order(self.buckets, self.global_batch, self.seed, epoch, self.drop)
        for row, times in zip(plan.rows[first:], plan.occurrence[first:], strict=True):
            mine = row[self.rank :: self.world]
            seeds = draw_seed(self.seed, epoch, self.words[mine], times[self.rank :: self.world])
            dropped = uniform(seeds, "caption dropout") < self.caption_dropout
            preserved = uniform(seeds, "prior preservation") < self.prior_preservation
            columns = (column.tolist() for column in (mine, seeds, dropped, preserved))
            yield [Draw(*values) for values in zip(*columns, strict=True)]


class EpochLoader:
    """The training batches of one rank, epoch after epoch, from a position that can be saved.

    An iterator gives the next ``len(loader)`` batches from where the loader stands, across the end
    of the epoch if it began within. So under ``limit_train_batches`` a Lightning epoch is just the
    next so many batches, and a resume is exact there too.

    Args:
        dataset: The samples.
        buckets: The bucket number of each sample.
        global_batch: Samples in a batch over all ranks; a multiple of ``world``.
        seed: Of the run.
        index_hash: Identifies the data, for the state.
        world: Number of ranks.
        rank: This rank.
        workers: Processes that read.
        caption_dropout: The share of samples that get the empty caption.
        prior_preservation: The share of samples that keep what the base predicts.
        drop: Leave out what does not fill a batch, instead of filling it.
    """

    def __init__(
        self,
        dataset: CachedExamples,
        buckets: Sequence[int],
        global_batch: int,
        seed: int,
        index_hash: str,
        world: int = 1,
        rank: int = 0,
        workers: int = 0,
        caption_dropout: float = 0.0,
        prior_preservation: float = 0.0,
        drop: bool = False,
    ) -> None:
        self.index_hash = index_hash
        words = id_words([example.id for example in dataset.examples])
        self.position = _Remaining(
            words, buckets, global_batch, seed, world, rank,
            caption_dropout, prior_preservation, drop,
        )  # fmt: skip
        self._reading = _Reading(dataset, self.position, workers)

    def __len__(self) -> int:
        return self.position.length

    def __iter__(self) -> Iterator[Batch]:
        at = self.position
        left = len(self)
        while left:
            if at.batch >= at.length:
                at.epoch, at.batch = at.epoch + 1, 0
            for batch in self._reading:
                at.batch += 1  # handed over: what workers read ahead does not count
                left -= 1
                yield batch
                if not left:
                    return

    def close(self) -> None:
        """End the workers; they start again when needed."""
        self._reading.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what the rest of the run can only be the same with."""
        return {
            "epoch": self.position.epoch,
            "batch": self.position.batch,
            "seed": self.position.seed,
            "index": self.index_hash,
            "global_batch": self.position.global_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Workers and ranks may differ from then.

        Raises:
            ElfError: If the data, the global batch or the seed are others than when it was saved.
        """
        mine = self.state_dict()
        for key, what, remedy in (
            ("index", "prepared data", "restore the data and run `elf prepare`"),
            ("global_batch", "global batch", "set data.batch_size × devices to the old product"),
            ("seed", "data.seed", "set it back"),
        ):
            if state[key] != mine[key]:
                raise ElfError(
                    f"this checkpoint was trained with {what} {state[key]}, now it is "
                    f"{mine[key]}, so the run cannot be resumed: {remedy}, or start a new run"
                )
        self.position.epoch, self.position.batch = state["epoch"], state["batch"]


class HeldOutLoader:
    """The validation batches of one rank: each sample once, in buckets, without caption dropout.

    A sample's seed comes from its id alone, so that its loss can be compared between runs, batch
    sizes and numbers of ranks.

    Args:
        dataset: The samples.
        buckets: The bucket number of each sample.
        batch_size: Samples a batch, at most.
        world: Number of ranks.
        rank: This rank; it gets every ``world``-th batch.
        workers: Processes that read.
    """

    def __init__(
        self,
        dataset: CachedExamples,
        buckets: Sequence[int],
        batch_size: int,
        world: int = 1,
        rank: int = 0,
        workers: int = 0,
    ) -> None:
        seeds = draw_seed(0, 0, id_words([example.id for example in dataset.examples]))
        numbers = np.asarray(buckets)
        plan: list[list[Draw]] = []
        for bucket in np.unique(numbers):
            members = np.flatnonzero(numbers == bucket).tolist()
            for start in range(0, len(members), batch_size):
                chosen = members[start : start + batch_size]
                plan.append([Draw(index, int(seeds[index])) for index in chosen])
        self._plan = plan[rank::world]
        self._reading = _Reading(dataset, self._plan, workers)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._reading

    def close(self) -> None:
        """End the workers; they start again when needed."""
        self._reading.close()
