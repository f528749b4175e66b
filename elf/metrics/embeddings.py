"""Embeddings as the metrics want them: in float64, finite, and where it is asked of length 1."""

import numpy as np
from jaxtyping import Float

from elf.errors import ElfError

Array = np.ndarray


def checked(
    embeddings: Float[Array, "*rows D"], name: str = "embeddings"
) -> Float[Array, "*rows D"]:
    """Return the embeddings in float64.

    Args:
        embeddings: One row for each picture or text.
        name: What they are called in an error.

    Raises:
        ElfError: If there are none, or a row holds NaN or infinity: any mean would be NaN too.
    """
    if not embeddings.size:
        raise ElfError(f"{name}: there are no embeddings; give at least one picture")
    _refuse_rows(~np.isfinite(embeddings).all(axis=-1), name, "holds NaN or infinity")
    return embeddings.astype(np.float64)


def normalise(
    embeddings: Float[Array, "*rows D"], name: str = "embeddings"
) -> Float[Array, "*rows D"]:
    """Scale embeddings to length 1, in float64.

    Raises:
        ElfError: If there are none, or a row is not finite or of length 0.
    """
    wide = checked(embeddings, name)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    _refuse_rows(lengths[..., 0] == 0, name, "is all zeros and has no direction")
    unit: Array = wide / lengths
    return unit


def _refuse_rows(refused: Array, name: str, what: str) -> None:
    """Name the first refused row, counted from 0 as the files of pictures are."""
    if refused.any():
        row = ", ".join(str(place) for place in np.argwhere(refused)[0])
        raise ElfError(
            f"{name}: the embedding of row {row} {what}; look at that picture, "
            "or let the embedder compute in float32"
        )
