"""A cutoff fitted to what a reviewer kept and struck out: a pure function."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from elf.taggers.names import list_name


@dataclass(frozen=True)
class Fit:
    """A cutoff and how well it does.

    Attributes:
        threshold: The cutoff; a tag of that score is kept.
        f1: Harmonic mean of precision and recall of the kept tags.
        f1_at_present: The same with every tag that was judged kept, as the labels stand.
        tags: How many judged tags it rests on.
    """

    threshold: float
    f1: float
    f1_at_present: float
    tags: int


def fit_threshold(
    scores: ArrayLike | Float[np.ndarray, " tags"],
    kept: ArrayLike | Bool[np.ndarray, " tags"],
) -> Fit | None:
    """Return the cutoff with the best F1 against a reviewer's judgement.

    It lies in the middle between the scores on its two sides; of equal ones the lowest is taken,
    which keeps most. None if nothing was kept, so that no cutoff means anything.

    Args:
        scores: Of the tags that were judged, 0 to 1.
        kept: Whether the reviewer left the tag in the label.
    """
    values = np.asarray(scores, np.float64)
    truth = np.asarray(kept, bool)
    if not truth.any():
        return None
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    right = np.cumsum(truth)  # kept tags among the first n + 1
    f1 = 2 * right / (np.arange(1, len(values) + 1) + truth.sum())
    last = np.append(values[:-1] != values[1:], True)  # equal scores go together
    candidates = np.flatnonzero(last)
    best = int(candidates[np.flatnonzero(f1[candidates] >= f1[candidates].max() - 1e-12)[-1]])
    below = values[best + 1] if best + 1 < len(values) else values[best]
    return Fit(
        round(float(values[best] + below) / 2, 4), float(f1[best]), float(f1[-1]), len(values)
    )


def judged_tags(records: Iterable[dict[str, Any]]) -> tuple[list[float], list[bool]]:
    """Return score and verdict of each tag in labels that a reviewer edited.

    Args:
        records: Of the manifest.
    """
    scores: list[float] = []
    kept: list[bool] = []
    for record in records:
        attributes = record.get("attributes", {})
        if "tags" not in attributes.get("decision", {}).get("edited", ()):
            continue
        left = {list_name(tag) for tag in record["tags"]}
        for tag, score in attributes.get("scores", {}).items():
            scores.append(float(score))
            kept.append(list_name(tag) in left)
    return scores, kept
