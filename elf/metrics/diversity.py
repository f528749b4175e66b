"""Do the seeds of one prompt still give different pictures?"""

import numpy as np
from jaxtyping import Float

from elf.errors import ElfError
from elf.metrics.embeddings import normalise

Array = np.ndarray


def diversity(pictures: Float[Array, "P S D"]) -> Float[Array, " P"]:
    """Return each prompt's mean of 1 − cosine over all pairs of its seeds.

    How large it is depends on the embedding and on the prompts; only relative to the base does it
    say whether an adapter has collapsed: ``jackknife_ratio(np.mean, base, adapter)`` of both.

    Raises:
        ElfError: If there is one seed, or an embedding is not usable.
    """
    seeds = pictures.shape[1]
    if seeds == 1:
        raise ElfError("diversity: one seed a prompt has nothing to differ from; take 2 or more")
    # For unit vectors the mean of ‖u − v‖² / 2 = 1 − u·v over pairs is their unbiased variance.
    spread: Array = normalise(pictures, "pictures").var(axis=1, ddof=1).sum(axis=-1)
    return spread
