"""How like the references, or its own text, each picture is: cosines of embeddings."""

import numpy as np
from jaxtyping import Float

from elf.metrics.embeddings import normalise

Array = np.ndarray


def similarity_to_references(
    pictures: Float[Array, "N D"], references: Float[Array, "M D"]
) -> Float[Array, " N"]:
    """Return each picture's mean cosine similarity to all references.

    Averaged over the pictures it is CLIP-I, or DINO, of DreamBooth (Ruiz et al. 2023, section
    4.1), by the embedding that is used.
    """
    mean = normalise(references, "references").mean(axis=0)
    similarity: Array = normalise(pictures, "pictures") @ mean
    return similarity


def similarity_to_texts(
    pictures: Float[Array, "N D"], texts: Float[Array, "N D"]
) -> Float[Array, " N"]:
    """Return the cosine similarity of each picture to its own text (CLIP-T, ibid.)."""
    similarity: Array = np.einsum(
        "nd,nd->n", normalise(pictures, "pictures"), normalise(texts, "texts")
    )
    return similarity
