"""The order of an epoch as a pure function of the seed, and seeds for all that is drawn in it.

Nothing here has state: batch 1,000 of epoch 7 is computed, not reached. So a resume needs only
the numbers (seed, epoch, batch), any number of ranks and workers sees the same global batches, and
what is drawn for a sample depends on the sample alone.

Random numbers are splitmix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) over integers: the same on every machine and with every numpy, whose own
generators may change their streams between versions.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
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


def mix(words: Words) -> Words:
    """Return splitmix64's finalizer of each 64-bit word."""
    words = words + np.uint64(_GAMMA)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


@lru_cache(1024)  # a few are asked for again and again, for each batch and each caption
def _key(*numbers: int) -> np.uint64:
    """Fold integers into one word; each enters through the mixer, so their order matters."""
    word = np.zeros(1, np.uint64)
    for number in numbers:
        word = mix(word ^ np.uint64(number & _MASK))
    return np.uint64(word[0])


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
    key = _key(_ORDER, seed, epoch)
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
    shuffled = np.argsort(mix(np.arange(total, dtype=np.uint64) ^ _key(_ROWS, seed, epoch)))
    fills = int(np.count_nonzero(occurrence))
    dropped = len(buckets) - (rows.size - fills)
    return Epoch(rows[shuffled], occurrence[shuffled], fills, dropped)


def id_words(ids: Sequence[str]) -> Words:
    """Return each id as a 64-bit word: the number itself where it is 16 hex digits, else a hash."""
    try:
        if all(len(name) == 16 for name in ids):
            return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64)
    except ValueError:
        pass  # the key of a tar that others wrote
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def draw_seed(
    seed: int, epoch: int, ids: Sequence[str] | Words, occurrence: npt.ArrayLike = 0
) -> Indices:
    """Return the seed from which everything about each sample of a batch is drawn.

    It depends on these four and nothing else: not on the batch, the rank, the worker or any
    generator. A sample that stands twice in an epoch gets two seeds.

    Args:
        seed: Of the run.
        epoch: Number of the epoch, from 0.
        ids: (B,) ids of samples, or their ``id_words``.
        occurrence: (B,) how many times each stood in this epoch before.

    Returns:
        (B,) seeds from 0 to 2⁶³ − 1, which ``torch.Generator.manual_seed`` takes.
    """
    words = ids if isinstance(ids, np.ndarray) else id_words(ids)
    words = mix(words ^ _key(seed, epoch))
    words = mix(words ^ np.asarray(occurrence).astype(np.uint64))
    return (words >> np.uint64(1)).astype(np.int64)


def uniform(seeds: Indices, purpose: str) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) for each seed, independent of those for other purposes."""
    stream = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "big")
    words = mix(seeds.astype(np.uint64) ^ _key(stream))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
