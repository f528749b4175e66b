"""What a tagger and a captioner gave for one picture, and its bytes in the cache.

Scores are kept in units of 1e-4, in which the rules compare them: nothing that a rule could see
is lost, at some 5 to 13 kB for a list of 10,861 tags. The rules always read the kept form, so
that a label made from the cache is the label that the model's run made.
"""

import functools
import json
import struct
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, UInt16

from elf.taggers.scores import Scores

UNITS = 10_000
"""Units a score of 1 has."""

FORMAT, CAPTION_FORMAT = 3, 2
"""Of the bytes of scores and of captions; part of the cache's folder name."""

_LENGTHS = struct.Struct("<III")  # bytes of the facts, of the scores, of the embedding


def to_units(scores: Float32[np.ndarray, "..."]) -> UInt16[np.ndarray, "..."]:
    """Return scores of 0 to 1 in units of 1e-4."""
    return np.rint(scores.astype(np.float64) * UNITS).astype(np.uint16)


@functools.lru_cache(1024)  # pictures of one size have the same
def _facts(data: bytes) -> tuple[int, int, str]:
    width, height, provider = json.loads(data)
    return width, height, provider


@dataclass(frozen=True)
class ScoreOutput:
    """A tagger's output.

    Attributes:
        units: The score of each tag of the model's list, in units of 1e-4.
        width: Of the upright picture, px.
        height: Of the upright picture, px.
        provider: The execution provider that computed it.
        embedding: What stands before the tagger's head, for the search for duplicates.
    """

    units: Scores
    width: int
    height: int
    provider: str
    embedding: Float16[np.ndarray, " features"] | None = None

    def pack(self) -> bytes:
        """Return the output as bytes."""
        facts = json.dumps([self.width, self.height, self.provider]).encode()
        scores = self.units.pack()
        embedding = b"" if self.embedding is None else self.embedding.astype("<f2").tobytes()
        lengths = _LENGTHS.pack(len(facts), len(scores), len(embedding))
        return lengths + facts + scores + embedding

    @classmethod
    def unpack(cls, data: bytes) -> "ScoreOutput":
        """Return what :meth:`pack` made bytes of."""
        facts, scores, embedding = _LENGTHS.unpack_from(data)
        at = _LENGTHS.size
        width, height, provider = _facts(data[at : (at := at + facts)])
        units = Scores.unpack(data[at : (at := at + scores)])
        features = np.frombuffer(data[at : at + embedding], "<f2") if embedding else None
        return cls(units, width, height, provider, features)


@dataclass(frozen=True)
class CaptionOutput:
    """A captioner's output.

    Attributes:
        text: The caption; none if there is none.
        status: ``ok``, ``off``, or why there is no caption.
        dtype: The number format of the weights that made it; empty if there were none.
    """

    text: str | None
    status: str
    dtype: str = ""

    @property
    def lasting(self) -> bool:
        """Whether the same model would say the same again: an error of the moment may not."""
        return self.status in ("ok", EMPTY)

    def pack(self) -> bytes:
        """Return the output as bytes."""
        return json.dumps([self.text, self.status, self.dtype]).encode()

    @classmethod
    def unpack(cls, data: bytes) -> "CaptionOutput":
        """Return what :meth:`pack` made bytes of."""
        return cls(*json.loads(data))


EMPTY = "failed: empty"
"""Of a captioner that gave special tokens alone."""
