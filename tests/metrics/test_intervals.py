"""Intervals against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from elf.metrics import Interval, paired_difference


def test_paired_difference_is_the_paired_t_interval_over_prompts() -> None:
    random = np.random.default_rng(1)
    base, adapter = random.normal(size=(12, 4)), random.normal(0.3, size=(12, 4))
    interval = paired_difference(base, adapter)
    expected = stats.ttest_rel(adapter.mean(1), base.mean(1)).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected))
    assert interval.mean == pytest.approx((adapter - base).mean())


def test_one_prompt_has_no_interval() -> None:
    interval = paired_difference(np.zeros((1, 3)), np.ones((1, 3)))
    assert interval.mean == 1
    assert math.isnan(interval.low)
    assert str(interval) == "+1.000"
    assert str(Interval(0.5, 0.25, 0.75)) == "+0.500 [+0.250, +0.750]"
