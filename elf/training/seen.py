"""What a training has seen of its data, computed from its position alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elf.training.epoch import order


@dataclass(frozen=True)
class Seen:
    """What was trained on since the run began, over all processes.

    Attributes:
        pictures: Samples of all batches.
        distinct: Different pictures among them.
        fills: Samples that filled a bucket's last batch once more.
        by_set: (sets,) samples of each set.
    """

    pictures: int
    distinct: int
    fills: int
    by_set: npt.NDArray[np.int64]


class Seeing:
    """Counts what the batches up to a position hold; a later position costs only what is new.

    Nothing of it need be saved: a run that goes on computes the batches from before again.

    Args:
        buckets: (samples,) the number of each sample's bucket.
        global_batch: Samples in a batch over all ranks.
        seed: Of the run.
        drop: Whether remainders are left out.
        repeats: (samples,) how many times each stands in an epoch; None: once.
        sets: (samples,) the number of each sample's set; None: all are of one.
    """

    def __init__(
        self,
        buckets: npt.ArrayLike,
        global_batch: int,
        seed: int,
        drop: bool = False,
        repeats: npt.ArrayLike | None = None,
        sets: npt.ArrayLike | None = None,
    ) -> None:
        self._buckets = np.asarray(buckets)
        samples = len(self._buckets)
        self._global_batch, self._seed, self._drop = global_batch, seed, drop
        self._repeats = None if repeats is None else np.asarray(repeats, np.int64)
        self._sets = np.zeros(samples, np.int64) if sets is None else np.asarray(sets, np.int64)
        self._begin()

    def _begin(self) -> None:
        self._epoch, self._batch = 0, 0
        self._seen = np.zeros(len(self._buckets), bool)
        self._fills = 0
        self._by_set = np.zeros(int(self._sets.max(initial=0)) + 1, np.int64)
        self._plan_epoch()

    def _plan_epoch(self) -> None:
        plan = order(
            self._buckets, self._global_batch, self._seed, self._epoch, self._drop, self._repeats
        )
        times = 1 if self._repeats is None else self._repeats[plan.rows]
        self._rows, self._is_fill = plan.rows, plan.occurrence >= times

    def at(self, epoch: int, batch: int) -> Seen:
        """Return what was seen when so many batches of an epoch were done.

        Args:
            epoch: Number of the epoch, from 0.
            batch: Batches done in it.
        """
        if (epoch, batch) < (self._epoch, self._batch):
            self._begin()
        while self._epoch < epoch:
            self._take(len(self._rows))
            self._epoch, self._batch = self._epoch + 1, 0
            self._plan_epoch()
        self._take(batch)
        pictures = int(self._by_set.sum())
        return Seen(pictures, int(self._seen.sum()), self._fills, self._by_set.copy())

    def _take(self, batch: int) -> None:
        rows = self._rows[self._batch : batch]
        self._seen[rows] = True
        self._fills += int(self._is_fill[self._batch : batch].sum())
        self._by_set += np.bincount(self._sets[rows].ravel(), minlength=len(self._by_set))
        self._batch = batch
