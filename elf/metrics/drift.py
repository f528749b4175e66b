"""How far the adapter moves a picture that it should have left alone."""

import numpy as np
from jaxtyping import Float

from elf.metrics.embeddings import normalise

Array = np.ndarray


def drift(base: Float[Array, "*rows D"], adapter: Float[Array, "*rows D"]) -> Float[Array, "*rows"]:
    """Return 1 − cosine between the paired pictures of base and adapter, 0 where they are equal.

    Args:
        base: Embeddings of the base's pictures.
        adapter: Those of the adapter's pictures from the same prompts, seeds and noise.
    """
    moved = normalise(adapter, "adapter's pictures") - normalise(base, "base's pictures")
    # Of unit vectors, 1 − u·v = ‖u − v‖² / 2, which does not cancel where they are nearly equal.
    distance: Array = (moved**2).sum(axis=-1) / 2
    return distance
