"""Metrics on arrays of embeddings, and intervals of paired differences.

Shapes: N pictures, M references, D embedding width, P prompts, S seeds.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

Array = np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; the bounds are NaN where one prompt is too few."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def normalise(embeddings: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Scale embeddings to length 1, in float64."""
    wide = embeddings.astype(np.float64)
    unit: Array = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def similarity_to_references(
    pictures: Float[Array, "N D"], references: Float[Array, "M D"]
) -> Float[Array, " N"]:
    """Return each picture's mean cosine similarity to all references.

    Averaged over the pictures it is CLIP-I, or DINO, of DreamBooth (Ruiz et al. 2023, section
    4.1), by the embedding that is used.
    """
    similarity: Array = normalise(pictures) @ normalise(references).mean(axis=0)
    return similarity


def similarity_to_texts(
    pictures: Float[Array, "N D"], texts: Float[Array, "N D"]
) -> Float[Array, " N"]:
    """Return the cosine similarity of each picture to its own text (CLIP-T, ibid.)."""
    similarity: Array = np.einsum("nd,nd->n", normalise(pictures), normalise(texts))
    return similarity


def paired_difference(
    base: Float[Array, "P S"], adapter: Float[Array, "P S"], confidence: float = 0.95
) -> Interval:
    """Return the mean of adapter − base with a t interval over prompts, seeds nested.

    A prompt's seeds share its difficulty, so they are averaged first and the prompts are what was
    sampled. Student's t holds its coverage at 8–20 prompts, where a percentile bootstrap does not.
    """
    differences = (adapter - base).mean(axis=1)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Interval(mean, float("nan"), float("nan"))
    margin = float(stats.sem(differences) * stats.t.ppf((1 + confidence) / 2, len(differences) - 1))
    return Interval(mean, mean - margin, mean + margin)
