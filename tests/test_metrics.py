"""Metrics against hand-computed numbers, intervals against scipy and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from elf.metrics import (
    Interval,
    normalise,
    paired_difference,
    similarity_to_references,
    similarity_to_texts,
)


def test_similarity_to_references_is_the_mean_of_all_cosines() -> None:
    random = np.random.default_rng(0)
    pictures, references = random.normal(size=(5, 7)), random.normal(size=(3, 7))
    expected = [
        np.mean([p @ r / (np.linalg.norm(p) * np.linalg.norm(r)) for r in references])
        for p in pictures
    ]
    np.testing.assert_allclose(similarity_to_references(pictures, references), expected)


def test_similarity_to_texts_pairs_rows() -> None:
    pictures, texts = np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 0], [1, 1]])
    assert similarity_to_texts(pictures, texts) == pytest.approx([1, math.sqrt(0.5)])


def test_normalise_works_in_float64() -> None:
    rows = normalise(np.array([[3.0, 4.0]], dtype=np.float16))
    assert rows.dtype == np.float64
    assert rows[0] == pytest.approx([0.6, 0.8])


def test_paired_difference_is_the_paired_t_interval_over_prompts() -> None:
    random = np.random.default_rng(1)
    base, adapter = random.normal(size=(12, 4)), random.normal(0.3, size=(12, 4))
    interval = paired_difference(base, adapter)
    expected = stats.ttest_rel(adapter.mean(1), base.mean(1)).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected))
    assert interval.mean == pytest.approx((adapter - base).mean())


@pytest.mark.parametrize("prompts", [8, 20])
def test_intervals_cover_what_they_claim(prompts: int) -> None:
    """Skewed difficulties of prompts, two noisy seeds each: 95 % means 93–97 %."""
    random = np.random.default_rng(2)
    hits, draws = 0, 10_000
    for _ in range(draws):
        effect = 0.2 + random.normal(0, 0.1, size=(prompts, 1))
        base = random.gamma(2, 0.1, size=(prompts, 1)) + random.normal(0, 0.05, (prompts, 2))
        interval = paired_difference(base, base + effect + random.normal(0, 0.05, (prompts, 2)))
        hits += interval.low <= 0.2 <= interval.high
    assert 0.93 <= hits / draws <= 0.97


def test_one_prompt_has_no_interval() -> None:
    interval = paired_difference(np.zeros((1, 3)), np.ones((1, 3)))
    assert interval.mean == 1
    assert math.isnan(interval.low)
    assert str(interval) == "+1.000"
    assert str(Interval(0.5, 0.25, 0.75)) == "+0.500 [+0.250, +0.750]"
