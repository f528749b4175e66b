"""Documents that are too long: no half of an answer is trained on, unless it is asked for."""

import hashlib
from dataclasses import dataclass

import numpy as np

from elf.language.documents import Document
from elf.language.settings import Truncation

NOTHING = "nothing is left to train on"


@dataclass(frozen=True)
class Fitted:
    """What became of a document.

    Attributes:
        documents: What is trained on: one, or the pieces of a text; or none.
        reason: Why something was left out; empty if nothing was.
        shortened: Whether some of what was to be trained on is left out of the documents.
    """

    documents: tuple[Document, ...]
    reason: str = ""
    shortened: bool = False


def fit(document: Document, length: int, truncation: Truncation) -> Fitted:
    """Return a document within a length, or the pieces of it that are.

    What stands behind the last trained token is left out: nothing is learnt from it. A document's
    first token is trained on in none, for nothing predicts it.

    Args:
        document: The document.
        length: Tokens at most.
        truncation: What is to be done if it has more.
    """
    trained = np.flatnonzero(document.trained)
    end = int(trained[-1]) + 1 if len(trained) else 0
    if end > length and truncation == "whole":
        if document.splits:
            return _pieces(document, length)
        ends = [each for each in document.ends if each <= length]
        if not ends:
            return Fitted((), f"no answer ends within {length} tokens")
        stop = ends[-1]
    else:
        stop = min(end, length)
    if found := _part(document, 0, stop):
        return Fitted((found,), shortened=stop < end)
    return Fitted((), NOTHING)


def piece_id(row: str, number: int) -> str:
    """Return the id of a piece of a text, 16 hex digits."""
    return hashlib.sha256(f"{row}:{number}".encode()).hexdigest()[:16]


def _pieces(document: Document, length: int) -> Fitted:
    starts = range(0, len(document), length)
    found = [_part(document, start, start + length) for start in starts]
    whole = tuple(piece for piece in found if piece is not None)
    return Fitted(whole, NOTHING if len(whole) < len(found) else "")


def _part(document: Document, start: int, stop: int) -> Document | None:
    trained = document.trained[start:stop].copy()
    trained[:1] = False
    return Document(document.tokens[start:stop], trained) if trained.any() else None
