"""Random numbers without state: what is drawn for a sample depends on the sample and seeds alone.

They are splitmix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014) over integers: the same on every machine and with every numpy, whose own generators
may change their streams between versions.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Seeds = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


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
def stream_key(*numbers: int) -> np.uint64:
    """Fold integers into one word; each enters through the mixer, so their order matters."""
    word = np.zeros(1, np.uint64)
    for number in numbers:
        word = mix(word ^ np.uint64(number & _MASK))
    return np.uint64(word[0])


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
) -> Seeds:
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
    words = mix(words ^ stream_key(seed, epoch))
    words = mix(words ^ np.asarray(occurrence).astype(np.uint64))
    return (words >> np.uint64(1)).astype(np.int64)


def uniform(seeds: Seeds, purpose: str) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) for each seed, independent of those for other purposes."""
    stream = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "big")
    words = mix(seeds.astype(np.uint64) ^ stream_key(stream))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
