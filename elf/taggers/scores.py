"""The scores of a tag list for one picture, in the form in which the cache keeps them.

The strong ones stand in front, each with its place. Behind them are a bit for each tag (whether
it has a weak score above 0) and a byte for each of those. That is as small as deflate makes them;
and rules that look at strong scores alone, as nearly all do, need not look at the others: a
change of rules reads the scores of all pictures.
"""

import functools
import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, UInt16

STRONG = 256
"""From here on a score (in units of 1e-4) is a strong one: it does not fit into a byte."""

_COUNTS = struct.Struct("<II")  # of the tags, of the strong ones


@dataclass(frozen=True)
class Scores:
    """The score of each tag of a list, in units of 1e-4.

    Args:
        count: Of the tags.
        places: Of the strong scores, in order.
        strong: The strong scores.
        weak: The others, as bits and bytes.
    """

    count: int
    places: Integer[np.ndarray, " strong"]
    strong: UInt16[np.ndarray, " strong"]
    weak: bytes

    @classmethod
    def of(cls, units: UInt16[np.ndarray, " tags"]) -> "Scores":
        """Return scores that are given one after the other."""
        return cls.of_each(units[None])[0]

    @classmethod
    def of_each(cls, units: UInt16[np.ndarray, "pictures tags"]) -> list["Scores"]:
        """Return the scores of several pictures.

        All at once: after each of numpy's calls a thread may wait for those that decode pictures.
        """
        rows, places = (units >= STRONG).nonzero()
        strong = units[rows, places]
        above = (units > 0) & (units < STRONG)
        bits, small = np.packbits(above, axis=1), units[above].astype(np.uint8).tobytes()
        ends = [0, *above.sum(1).cumsum().tolist()]
        cuts = rows.searchsorted(np.arange(len(units) + 1)).tolist()
        return [
            cls(
                units.shape[1],
                places[cuts[row] : cuts[row + 1]],
                strong[cuts[row] : cuts[row + 1]],
                bits[row].tobytes() + small[ends[row] : ends[row + 1]],
            )
            for row in range(len(units))
        ]

    @functools.cached_property
    def dense(self) -> UInt16[np.ndarray, " tags"]:
        """All of them, one after the other."""
        at = (self.count + 7) // 8
        bits = np.unpackbits(np.frombuffer(self.weak, np.uint8, at), count=self.count)
        units = np.zeros(self.count, np.uint16)
        units[bits.view(np.bool_)] = np.frombuffer(self.weak[at:], np.uint8)
        units[self.places] = self.strong
        return units

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        return int(self.dense[place])

    def reaching(
        self, least: UInt16[np.ndarray, " tags"], lowest: int
    ) -> tuple[Integer[np.ndarray, " some"], UInt16[np.ndarray, " some"]]:
        """Return the places of the scores that reach what is asked of them, in order, and these.

        Args:
            least: What is asked of each tag's score.
            lowest: The lowest of that.
        """
        if lowest < STRONG:
            (places,) = (self.dense >= least).nonzero()
            return places, self.dense[places]
        enough = self.strong >= least[self.places]
        return self.places[enough], self.strong[enough]

    def largest(self, among: Integer[np.ndarray, " some"]) -> int:
        """Return that of some places at which the largest score stands, the first of equal ones."""
        if len(self.places):
            at = np.minimum(self.places.searchsorted(among), len(self.places) - 1)
            known = np.where(self.places[at] == among, self.strong[at], 0)
            if known.any():
                return int(among[known.argmax()])
        return int(among[self.dense[among].argmax()])

    def pack(self) -> bytes:
        """Return the scores as bytes."""
        places = self.places.astype(_places_in(self.count)).tobytes()
        strong = self.strong.astype("<u2").tobytes()
        return _COUNTS.pack(self.count, len(self.strong)) + places + strong + self.weak

    @classmethod
    def unpack(cls, data: bytes) -> "Scores":
        """Return what :meth:`pack` made bytes of."""
        count, strong = _COUNTS.unpack_from(data)
        at = _COUNTS.size
        places = np.frombuffer(data, _places_in(count), strong, at)
        values = np.frombuffer(data, "<u2", strong, at + places.nbytes)
        return cls(count, places, values, data[at + places.nbytes + values.nbytes :])


def _places_in(count: int) -> str:
    """Return the type of the places in a list of so many tags."""
    return "<u2" if count <= 1 << 16 else "<u4"
