"""Does the adapter give back its training pictures? The nearest of them by copy detection."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from elf.errors import ElfError
from elf.metrics.embeddings import normalise

Array = np.ndarray

# From this cosine of SSCD embeddings on, 90 % of the pairs are copies (Pizzi et al. 2022, A
# Self-Supervised Descriptor for Image Copy Detection, of its descriptors on DISC).
SSCD_COPY = 0.75
BLOCK = 1024  # pictures that are compared at a time: (BLOCK, M) cosines are held


@dataclass(frozen=True)
class Nearest:
    """The nearest reference of each picture.

    Args:
        index: Its row among the references; of equally near ones the first.
        similarity: Its cosine.
    """

    index: Int[Array, " N"]
    similarity: Float[Array, " N"]


def nearest_references(pictures: Float[Array, "N D"], references: Float[Array, "M D"]) -> Nearest:
    """Return the nearest reference of each picture by the cosine of their embeddings.

    Raises:
        ElfError: If there are no pictures or references, or an embedding is not usable.
    """
    units, targets = normalise(pictures, "pictures"), normalise(references, "references")
    blocks = [units[start : start + BLOCK] @ targets.T for start in range(0, len(units), BLOCK)]
    index = np.concatenate([cosines.argmax(axis=1) for cosines in blocks])
    return Nearest(index, np.concatenate([cosines.max(axis=1) for cosines in blocks]))


def share_of_copies(similarity: Float[Array, "*rows"], threshold: float = SSCD_COPY) -> float:
    """Return the share of pictures whose nearest reference is at ``threshold`` or above.

    It is a mean over pictures, so that ``paired_difference`` of the 0/1 tables gives its interval.
    Rare copies are beyond any interval of 8–20 prompts: where none is seen it has no width, yet up
    to 3 / P of the prompts may give one (rule of three, Hanley and Lippman-Hand 1983).

    Args:
        similarity: Of each picture to its nearest reference.
        threshold: From where on it counts as a copy.

    Raises:
        ElfError: If there is no picture.
    """
    if not similarity.size:
        raise ElfError("copies: there is no picture to compare; generate at least one")
    return float((similarity >= threshold).mean())
