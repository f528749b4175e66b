"""Confidence intervals of what base and adapter differ by: prompts are the sample."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

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


def paired_difference(
    base: Float[Array, "P S"], adapter: Float[Array, "P S"], confidence: float = 0.95
) -> Interval:
    """Return the mean of adapter − base with a t interval over prompts, seeds nested.

    A prompt's seeds are averaged first. Student's t holds its coverage at 8–20 prompts, where a
    percentile bootstrap does not.
    """
    differences = (adapter - base).mean(axis=1)
    mean = float(differences.mean())
    prompts = len(differences)
    if prompts < 2:
        return _without_bounds(mean)
    error = float(differences.std(ddof=1)) / prompts**0.5
    return _around(mean, error, prompts, confidence)


def _around(mean: float, error: float, count: int, confidence: float) -> Interval:
    margin = error * float(special.stdtrit(count - 1, (1 + confidence) / 2))
    return Interval(mean, mean - margin, mean + margin)


def _without_bounds(mean: float) -> Interval:
    return Interval(mean, float("nan"), float("nan"))
