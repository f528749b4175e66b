"""Embeddings that ``elf predict`` left in its cache: what stands before a tagger's head."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from elf.caching.tagcache import ResultCache


def read_embeddings(
    cache: Path, digests: Sequence[str]
) -> Float32[np.ndarray, "n features"] | None:
    """Return pictures' embeddings as unit vectors, zeros for a picture that has none.

    One tagger's alone can be compared: the one that saw most of the pictures, of equals the first
    by name. None if there are none.

    Args:
        cache: Of the tagging.
        digests: The pictures' sha256.
    """
    best: dict[int, np.ndarray] = {}
    for folder in sorted(cache.glob("wd-*")) if cache.is_dir() else []:
        found = _read(folder, digests)
        if len(found) > len(best):
            best = found
    if not best:
        return None
    vectors = np.zeros((len(digests), len(next(iter(best.values())))), np.float32)
    for row, embedding in best.items():
        vectors[row] = embedding
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(length, np.finfo(np.float32).tiny)
    return vectors


def _read(folder: Path, digests: Sequence[str]) -> dict[int, np.ndarray]:
    """Return a tagger's embeddings by the pictures' rows, all of the length of the first."""
    from elf.taggers.outputs import ScoreOutput  # imports torch

    found: dict[int, np.ndarray] = {}
    width = 0
    with ResultCache(folder) as results:
        for row, digest in enumerate(digests):
            payload = results.get(digest)
            if payload is None:
                continue
            try:
                embedding = ScoreOutput.unpack(payload).embedding
            except (ValueError, struct.error):  # an older format's: it is made anew by predict
                continue
            if embedding is None or not np.isfinite(embedding).all():
                continue
            width = width or len(embedding)
            if len(embedding) == width:
                found[row] = embedding
    return found
