"""The order of an epoch as a pure function of the seed.

Nothing here has state: batch 1,000 of epoch 7 is computed, not reached. So a resume needs only
the numbers (seed, epoch, batch), and any number of ranks and workers sees the same global batches.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elf.draws import mix, stream_key

Indices = npt.NDArray[np.int64]

_CHUNK = 1 << 20  # samples hashed at a time, to bound the memory of intermediate results
_ORDER, _ROWS = 1, 2  # streams: what a hash is used for


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch.

    Attributes:
        rows: (batches, global_batch) indices of samples; all of a row are of one bucket.
        occurrence: (batches, global_batch) which of the sample's times in this epoch it is, from
            0; fills are counted after its repeats.
        fills: How many places hold a sample again because its bucket does not fill its rows.
        dropped: How many places of samples are left out (only if remainders are dropped).
    """

    rows: npt.NDArray[np.int32]
    occurrence: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    fills: int
    dropped: int


def batches(counts: npt.ArrayLike, global_batch: int, drop: bool = False) -> int:
    """Return how many batches an epoch has, given the number of samples of each bucket."""
    counts = np.asarray(counts)
    return int(np.sum(counts // global_batch if drop else -(-counts // global_batch)))


def bucket_counts(buckets: npt.ArrayLike, repeats: npt.ArrayLike | None = None) -> Indices:
    """Return how many samples each bucket has, repeats included, in the order of their numbers."""
    numbers = np.unique(np.asarray(buckets), return_inverse=True)[1]
    if repeats is None:
        return np.bincount(numbers).astype(np.int64)
    return np.bincount(numbers, np.asarray(repeats)).astype(np.int64)


def balance(repeats: npt.ArrayLike, regularisation: npt.ArrayLike) -> Indices:
    """Return how many times samples stand in an epoch, if class pictures are to equal the others.

    As in kohya's scripts: class pictures stand as often as all others together. They are taken in
    turn, each with its repeats, and then once more each, until there are enough; if there are more
    than that, the last are not used.

    Args:
        repeats: (samples,) repeats as configured.
        regularisation: (samples,) which are class pictures; as they are.
    """
    repeats, classes = np.array(repeats, np.int64), np.asarray(regularisation, bool)
    if not classes.any():
        return repeats
    wanted = int(repeats[~classes].sum())
    own = repeats[classes]
    before = np.cumsum(own) - own
    missing = max(0, wanted - int(own.sum()))
    more = missing // len(own) + (np.arange(len(own)) < missing % len(own))
    repeats[classes] = np.clip(wanted - before, 0, own) + more
    return repeats


def order(
    buckets: npt.ArrayLike,
    global_batch: int,
    seed: int,
    epoch: int,
    drop: bool = False,
    repeats: npt.ArrayLike | None = None,
) -> Epoch:
    """Return the batches of an epoch: buckets shuffled, cut into rows, and the rows shuffled.

    Each row is full. The last row of a bucket is filled from the start of the bucket's own order,
    or left out if ``drop``. Rank r of a world takes ``row[r::world]``.

    Args:
        buckets: (samples,) the number of each sample's bucket; a sample's index is its place.
        global_batch: Samples in a batch over all ranks.
        seed: Of the run.
        epoch: Number of the epoch, from 0.
        drop: Leave remainders out instead of filling them.
        repeats: (samples,) how many times each stands in the epoch, anywhere in it; once, if left
            out.

    Raises:
        ValueError: If there are 2³¹ samples or more, repeats included.
    """
    buckets = np.asarray(buckets)
    if repeats is None:
        return _order(buckets, global_batch, seed, epoch, drop)
    repeats = np.asarray(repeats, np.int64)
    if int(repeats.sum()) >= 1 << 31:
        raise ValueError("an epoch holds fewer than 2³¹ samples")
    # Each of a sample's times is a sample of its own, and then called by the sample's number.
    sample = np.repeat(np.arange(len(buckets), dtype=np.int32), repeats)
    plan = _order(buckets[sample], global_batch, seed, epoch, drop)
    times = (plan.rows - (np.cumsum(repeats) - repeats)[sample[plan.rows]]).astype(np.uint32)
    rows = sample[plan.rows]
    times += plan.occurrence * repeats[rows].astype(np.uint32)
    return Epoch(rows, times, plan.fills, plan.dropped)


def _order(
    buckets: npt.NDArray[np.generic], global_batch: int, seed: int, epoch: int, drop: bool
) -> Epoch:
    if len(buckets) >= 1 << 31:
        raise ValueError("an epoch holds fewer than 2³¹ samples")
    # A sample's word: 32 bits of hash, then its index. Sorted in place, the words are the shuffled
    # samples, in half the time and a third of the memory that sorting indices by hash takes.
    words = np.arange(len(buckets), dtype=np.uint64)
    key = stream_key(_ORDER, seed, epoch)
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        part |= mix(part ^ key) << np.uint64(32)
    numbers, counts = np.unique(buckets, return_counts=True)
    total = batches(counts, global_batch, drop)
    rows = np.empty((total, global_batch), np.int32)
    occurrence = np.zeros((total, global_batch), np.uint16)
    first, members = 0, words
    for number, count in zip(numbers, counts, strict=True):
        members = words if len(numbers) == 1 else words[buckets == number]
        members.sort()
        last = first + batches([count], global_batch, drop)
        places, times = rows[first:last].reshape(-1), occurrence[first:last].reshape(-1)
        # place p of a bucket of n samples holds its sample p mod n, for the (p div n)-th time
        for time, start in enumerate(range(0, len(places), count)):
            stop = min(start + count, len(places))
            places[start:stop] = members[: stop - start].astype(np.uint32)  # the low half
            times[start:stop] = time
        first = last
    del words, members
    shuffled = np.argsort(mix(np.arange(total, dtype=np.uint64) ^ stream_key(_ROWS, seed, epoch)))
    fills = int(np.count_nonzero(occurrence))
    dropped = len(buckets) - (rows.size - fills)
    return Epoch(rows[shuffled], occurrence[shuffled], fills, dropped)
