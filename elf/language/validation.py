"""The validation loss of documents: by token, with the adapter and without it.

What is measured of a document depends on it alone, so neither batches nor processes change a
figure: errors are brought together by id before any mean is taken.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from elf.metrics import Interval, ratio_difference
from elf.processes import gather
from elf.training.validationsets import PREFIX, gap


class DocumentErrors(NamedTuple):
    """Sums over a document's trained tokens.

    Attributes:
        error: Of −log p.
        tokens: How many there are.
        correct: Of them, those that no other word was likelier than.
    """

    error: float
    tokens: int
    correct: int


def mean_error(documents: Sequence[DocumentErrors]) -> float:
    """Return the mean −log p of a token, whose exponential is the perplexity."""
    return sum(each.error for each in documents) / sum(each.tokens for each in documents)


def perplexity_ratio(adapter: Sequence[DocumentErrors], base: Sequence[DocumentErrors]) -> Interval:
    """Return the ratio of the adapter's perplexity to the base's, paired by document.

    Its logarithm is a ratio of sums, Σ (a − b) / Σ n; its interval is the exponential of that of
    the logarithm.
    """
    tokens = np.array([each.tokens for each in base], float)
    change = np.array([a.error - b.error for a, b in zip(adapter, base, strict=True)])
    found = ratio_difference(change, tokens)
    return Interval(*(math.exp(min(each, 700.0)) for each in (found.mean, found.low, found.high)))


class TextValidation:
    """What one run through the validation documents found, in all sets and processes."""

    def __init__(self) -> None:
        self.sets: dict[str, dict[str, tuple[DocumentErrors, DocumentErrors]]] = {
            name: {} for name in PREFIX
        }

    def add(
        self,
        kind: str,
        ids: Sequence[str],
        adapter: Sequence[DocumentErrors],
        base: Sequence[DocumentErrors],
    ) -> None:
        """Add documents of a set; one that is there already is replaced."""
        self.sets[kind] |= dict(zip(ids, zip(adapter, base, strict=True), strict=True))

    def gather(self) -> None:
        """Bring the documents of all processes together, in each of them."""
        for share in gather(self.sets):
            for name, found in share.items():
                self.sets[name] |= found

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the sets that have documents, and the gap between new and trained.

        ``loss`` is the mean error of a token, in nats; ``gap`` the difference of the sets' ratios.
        """
        found: dict[str, float] = {}
        for name, documents in self.sets.items():
            if documents:
                found |= _of_set(PREFIX[name], [documents[key] for key in sorted(documents)])
        return found | gap(found)


def _of_set(
    prefix: str, pairs: Sequence[tuple[DocumentErrors, DocumentErrors]]
) -> dict[str, float]:
    adapter, base = [each[0] for each in pairs], [each[1] for each in pairs]
    ratio = perplexity_ratio(adapter, base)
    tokens = sum(each.tokens for each in adapter)
    figures = {
        "loss": mean_error(adapter),
        "loss_base": mean_error(base),
        "perplexity": math.exp(min(mean_error(adapter), 700.0)),
        "perplexity_base": math.exp(min(mean_error(base), 700.0)),
        "ratio": ratio.mean,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "accuracy": sum(each.correct for each in adapter) / tokens,
    }
    return {f"{prefix}/{key}": value for key, value in figures.items()}
