"""Differences of ratios of sums: of errors a token or a byte, and of tokens that are right.

Shapes: D documents.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

from elf.metrics.intervals import Interval

Array = np.ndarray


def ratio_difference(change: Float[Array, " D"], weights: Float[Array, " D"]) -> Interval:
    """Return Σ c / Σ w with a 95 % interval over documents, which are of different lengths.

    The standard error is by the delta method (Cochran, Sampling Techniques, section 6.4), Student's
    t at one less than there are documents.

    Args:
        change: What a document's sum differs by, adapter − base.
        weights: Its tokens or bytes, the same for both.

    Returns:
        The ratio and its interval; without bounds for one document.
    """
    mean = float(change.sum() / weights.sum())
    if len(weights) < 2:
        return Interval(mean, float("nan"), float("nan"))
    error = float(stats.sem(change - mean * weights) / weights.mean())
    margin = error * float(stats.t.ppf(0.975, len(weights) - 1))
    return Interval(mean, mean - margin, mean + margin)
