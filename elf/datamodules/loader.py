"""Batches of an epoch of samples, drawn anew in each, and those of a validation."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from elf.datamodules.positioned import PositionedLoader
from elf.datamodules.reading import Batch, BatchReading, CachedExamples, Draw
from elf.draws import Words, draw_seed, id_words, uniform
from elf.preparation.captions import variant_seeds
from elf.training.epoch import Indices, batches, bucket_counts, order


@dataclass(frozen=True)
class Treatment:
    """What training does with samples: one value for all, or (samples,) values.

    Attributes:
        caption_dropout: The share that gets the empty caption, 0-1.
        prior_preservation: The share that keeps what the base predicts, 0-1.
        flip: The share that is mirrored, 0-1.
        repeats: How many times each stands in an epoch; None: once.
        sentence: The share that gets the sentence, where either is drawn, 0-1.
        variants: Of how many cached captions one is drawn; 0: each is made anew.
    """

    caption_dropout: npt.ArrayLike = 0.0
    prior_preservation: npt.ArrayLike = 0.0
    flip: npt.ArrayLike = 0.0
    repeats: npt.ArrayLike | None = None
    sentence: npt.ArrayLike = 0.0
    variants: npt.ArrayLike = 1


class _Remaining:
    """The batches that were not handed over, epoch after epoch, as one rank draws them."""

    def __init__(
        self,
        words: Words,
        buckets: Sequence[int],
        global_batch: int,
        seed: int,
        world: int,
        rank: int,
        treatment: Treatment,
        drop: bool,
    ) -> None:
        self.words, self.buckets = words, np.asarray(buckets)
        self.global_batch, self.seed, self.drop = global_batch, seed, drop
        self.world, self.rank = world, rank
        self.repeats = treatment.repeats
        self.shares = [
            (purpose, np.broadcast_to(np.asarray(share), len(words)))
            for purpose, share in (
                ("caption dropout", treatment.caption_dropout),
                ("prior preservation", treatment.prior_preservation),
                ("flip", treatment.flip),
                ("sentence", treatment.sentence),
            )
        ]
        self.variants = np.broadcast_to(np.asarray(treatment.variants), len(words))
        self.epoch = 0
        self.batch = 0
        self.length = batches(bucket_counts(buckets, self.repeats), global_batch, drop)

    def __iter__(self) -> Iterator[list[Draw]]:
        yield from self._of_epoch(self.epoch, self.batch)
        for epoch in itertools.count(self.epoch + 1):
            yield from self._of_epoch(epoch)

    def _of_epoch(self, epoch: int, first: int = 0) -> Iterator[list[Draw]]:
        plan = order(self.buckets, self.global_batch, self.seed, epoch, self.drop, self.repeats)
        for row, times in zip(plan.rows[first:], plan.occurrence[first:], strict=True):
            mine = row[self.rank :: self.world]
            seeds = draw_seed(self.seed, epoch, self.words[mine], times[self.rank :: self.world])
            drawn = [uniform(seeds, purpose) < share[mine] for purpose, share in self.shares]
            chosen = self._words(seeds, mine)
            columns = (column.tolist() for column in (mine, seeds, *drawn, chosen))
            yield [Draw(*values) for values in zip(*columns, strict=True)]

    def _words(self, seeds: Indices, mine: Indices) -> Indices:
        """Return what each caption is drawn from: the seed of one that is cached, or its own."""
        count = self.variants[mine]
        if not count.any():
            return seeds
        number = (uniform(seeds, "caption variant") * count).astype(np.int64)
        return np.where(count == 0, seeds, variant_seeds(self.words[mine], number))


class EpochLoader(PositionedLoader[Batch]):
    """The training batches of one rank, epoch after epoch, from a position that can be saved.

    Args:
        dataset: The samples.
        buckets: The bucket number of each sample.
        global_batch: Samples in a batch over all ranks; a multiple of ``world``.
        seed: Of the run.
        index_hash: Identifies the data, for the state.
        world: Number of ranks.
        rank: This rank.
        workers: Processes that read.
        treatment: What is done with the samples.
        drop: Leave out what does not fill a batch, instead of filling it.
        options: What else the draws depend on, by its key in the configuration, for the state.

    Attributes:
        waited: Seconds for which batches were waited for so far.
        handed: When the last batch was handed over, by ``time.perf_counter``.
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
        treatment: Treatment = Treatment(),
        drop: bool = False,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        words = id_words([example.id for example in dataset.examples])
        remaining = _Remaining(words, buckets, global_batch, seed, world, rank, treatment, drop)
        super().__init__(remaining, index_hash, options)
        self._reading = BatchReading(dataset, remaining, workers)
        self._batches: Iterator[Batch] | None = None
        self.waited = 0.0
        self.handed = 0.0

    def _next(self) -> Batch:
        """Return the next batch; workers read ahead across the ends of epochs."""
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self._reading)
        try:
            return next(self._batches)
        except BaseException:
            self._batches = None
            raise
        finally:
            self.handed = time.perf_counter()
            self.waited += self.handed - start

    def _moved(self) -> None:
        self._batches = None

    def close(self) -> None:
        """End the workers; they start again when needed."""
        self._batches = None
        self._reading.close()


class HeldOutLoader:
    """The validation batches of one rank: each sample once, in buckets, without caption dropout.

    A sample's seed comes from its id alone, so that its loss can be compared between runs, batch
    sizes and numbers of ranks.

    Args:
        dataset: The samples.
        buckets: The bucket number of each sample.
        batch_size: Samples a batch, at most.
        world: Number of ranks.
        rank: This rank; it gets every ``world``-th batch, and the first if there is none for it:
            a rank without batches would miss what all do together at the end.
        workers: Processes that read.
        kind: What its batches say of themselves under ``kind``.
    """

    def __init__(
        self,
        dataset: CachedExamples,
        buckets: Sequence[int],
        batch_size: int,
        world: int = 1,
        rank: int = 0,
        workers: int = 0,
        kind: str = "held_out",
    ) -> None:
        self.kind = kind
        seeds = draw_seed(0, 0, id_words([example.id for example in dataset.examples]))
        numbers = np.asarray(buckets)
        plan: list[list[Draw]] = []
        for bucket in np.unique(numbers):
            members = np.flatnonzero(numbers == bucket).tolist()
            for start in range(0, len(members), batch_size):
                chosen = members[start : start + batch_size]
                plan.append([Draw(index, int(seeds[index])) for index in chosen])
        self._plan = plan[rank::world] or plan[:1]
        self._reading = BatchReading(dataset, self._plan, workers)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._reading:
            yield {**batch, "kind": self.kind}

    def close(self) -> None:
        """End the workers; they start again when needed."""
        self._reading.close()
