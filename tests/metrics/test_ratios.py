"""Ratios of sums, by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats

from elf.metrics import ratio_difference


def test_by_hand() -> None:
    found = ratio_difference(np.array([-2.0, -1.0, 0.0]), np.array([2.0, 2.0, 2.0]))
    assert found.mean == -0.5
    margin = stats.t.ppf(0.975, 2) * (1 / 3**0.5) / 2  # the deviations are −1, 0 and 1
    assert (found.low, found.high) == pytest.approx((-0.5 - margin, -0.5 + margin))


def test_a_long_document_counts_for_what_it_has() -> None:
    found = ratio_difference(np.array([-9.0, 1.0]), np.array([9.0, 1.0]))
    assert found.mean == -0.8


def test_one_document_has_no_interval() -> None:
    found = ratio_difference(np.array([1.0]), np.array([4.0]))
    assert found.mean == 0.25 and np.isnan(found.low) and np.isnan(found.high)


@pytest.mark.parametrize("documents", [20, 60])
def test_its_intervals_hold_the_truth(documents: int) -> None:
    random = np.random.default_rng(documents)
    held = 0
    for _ in range(1000):
        weights = random.integers(5, 60, documents).astype(float)
        change = weights * random.normal(-0.3, 0.4, documents)
        found = ratio_difference(change, weights)
        held += found.low <= -0.3 <= found.high
    assert 0.92 <= held / 1000 <= 0.97
