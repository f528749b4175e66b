"""Documents into rows of one length: packed by best fit, or in buckets of similar lengths."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elf.errors import ElfError
from elf.training.epoch import Indices


@dataclass(frozen=True)
class Bins:
    """Documents in bins: those of bin ``b`` are ``documents[starts[b] : starts[b + 1]]``.

    Attributes:
        documents: (N,) indices, ascending within a bin.
        starts: (bins + 1,) where each bin begins.
    """

    documents: Indices
    starts: Indices

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> Indices:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.documents[self.starts[number] : self.starts[number + 1]]

    def sizes(self, lengths: npt.ArrayLike) -> Indices:
        """Return how many tokens are in each bin, (bins,)."""
        sums = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64)[self.documents])])
        return np.diff(sums[self.starts])

    def fullness(self, lengths: npt.ArrayLike, capacity: int) -> float:
        """Return the share of all places that hold a token."""
        return float(np.sum(lengths)) / (capacity * len(self)) if len(self) else 1.0


def pack(lengths: npt.ArrayLike, capacity: int) -> Bins:
    """Return documents in bins by best-fit decreasing: the same ones for the same lengths.

    The longest document comes first, and each goes where it leaves the least room. Of equal ones
    the first comes first. Theory: D. S. Johnson, "Near-optimal bin packing algorithms", 1973.

    Args:
        lengths: (N,) tokens of each document.
        capacity: Tokens of a bin.

    Raises:
        ElfError: If a document is longer than a bin.
    """
    lengths = np.asarray(lengths, np.int64)
    _refuse_long(lengths, capacity)
    order = np.argsort(-lengths, kind="stable")
    bins = np.empty(len(lengths), np.int64)  # of each document, in that order
    free: defaultdict[int, list[int]] = defaultdict(list)  # by the room they have, open bins
    rooms = 0  # bit r is set if a bin has room for r more tokens
    count = 0
    for place, length in enumerate(lengths[order].tolist()):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = free[room].pop()
            if not free[room]:
                rooms ^= 1 << room
        else:
            room, number = capacity, count
            count += 1
        bins[place] = number
        if left := room - length:
            if not free[left]:
                rooms |= 1 << left
            free[left].append(number)
    documents = order[np.lexsort((order, bins))]
    starts = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=count))]).astype(np.int64)
    return Bins(documents, starts)


def length_buckets(lengths: npt.ArrayLike, capacity: int, step: int) -> tuple[Indices, Indices]:
    """Return documents in buckets of similar lengths, to be padded to their bucket's edge.

    Args:
        lengths: (N,) tokens of each document.
        capacity: Tokens that the longest bucket has.
        step: Tokens between the edges of two buckets.

    Returns:
        (N,) the number of each document's bucket, and (buckets,) how many tokens each bucket has.

    Raises:
        ElfError: If a document is longer than the longest bucket.
    """
    lengths = np.asarray(lengths, np.int64)
    _refuse_long(lengths, capacity)
    edges = np.append(np.arange(step, capacity, step, dtype=np.int64), capacity)
    return np.searchsorted(edges, lengths), edges


def _refuse_long(lengths: Indices, capacity: int) -> None:
    if (longest := int(lengths.max(initial=0))) > capacity:
        raise ElfError(
            f"document {int(lengths.argmax())} has {longest} tokens and a row {capacity}: prepare "
            f"with data.length of at most {capacity}, or make the rows longer"
        )
