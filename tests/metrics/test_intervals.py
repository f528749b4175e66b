"""Intervals against scipy and each other, and in degenerate cases."""

import math

import numpy as np
import pytest
from scipy import stats

from elf.errors import ElfError
from elf.metrics import (
    Interval,
    cmmd,
    diversity,
    jackknife_difference,
    jackknife_interval,
    jackknife_ratio,
    kid,
    paired_difference,
    share_difference,
)


def tables(prompts: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.normal(size=(prompts, seeds)), random.normal(0.3, size=(prompts, seeds))


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_paired_difference_is_the_paired_t_interval_over_prompts() -> None:
    base, adapter = tables(12, 4)
    interval = paired_difference(base, adapter)
    expected = stats.ttest_rel(adapter.mean(1), base.mean(1)).confidence_interval(0.95)
    assert bounds(interval) == pytest.approx(tuple(expected))
    assert interval.mean == pytest.approx((adapter - base).mean())


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_of_means_the_jackknife_is_the_paired_difference(confidence: float) -> None:
    base, adapter = tables(9, 3)
    interval = jackknife_difference(np.mean, base, adapter, confidence=confidence)
    expected = paired_difference(base, adapter, confidence)
    assert interval.mean == pytest.approx(expected.mean)
    assert bounds(interval) == pytest.approx(bounds(expected))


def test_of_a_ratio_of_means_the_jackknife_is_near_the_delta_method() -> None:
    random = np.random.default_rng(2)
    base = random.uniform(1, 2, size=40)
    adapter = 0.5 * base + random.normal(0, 0.1, size=40)
    interval = jackknife_ratio(np.mean, base, adapter)
    ratio = adapter.mean() / base.mean()
    error = stats.sem(adapter - ratio * base) / base.mean() / ratio  # of its logarithm
    assert interval.mean == ratio
    margins = np.log(np.array(bounds(interval)) / ratio) / (error * stats.t.ppf(0.975, 39))
    assert margins == pytest.approx([-1, 1], rel=0.01)


def test_a_prompt_of_which_the_base_does_not_vary_spoils_no_ratio() -> None:
    base, adapter = np.array([0.0, 0.2, 0.3, 0.3]), np.array([0.1, 0.1, 0.1, 0.1])
    interval = jackknife_ratio(np.mean, base, adapter)
    assert interval.mean == pytest.approx(0.5)
    assert 0 < interval.low < 0.5 < interval.high < math.inf


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(ElfError) as caught:
        jackknife_ratio(np.mean, np.zeros(3), np.array([0.0, 0.3, 0.3]))
    assert str(caught.value) == (
        "a ratio of 0.2 to 0 says nothing; look at the pictures of the base"
    )
    with pytest.raises(ElfError, match=r"^a ratio of 0 to 0 says nothing"):
        jackknife_ratio(np.mean, np.zeros(3), np.zeros(3))


@pytest.mark.parametrize("prompts", [50, 100, 120])
def test_many_prompts_are_left_out_in_groups(prompts: int) -> None:
    """For equal groups it is the t interval of the groups' means; for unequal ones, near it."""
    base, adapter = tables(prompts, 1)
    calls: list[int] = []

    def mean(table: np.ndarray) -> float:
        calls.append(len(table))
        return float(table.mean())

    interval = jackknife_difference(mean, base, adapter)
    assert len(calls) == 2 * (1 + 50)
    groups = [group.mean() for group in np.array_split(adapter - base, 50)]
    margin = stats.sem(groups) * stats.t.ppf(0.975, 49)
    exact = prompts != 120
    assert interval.mean == pytest.approx((adapter - base).mean())
    assert interval.high - interval.mean == pytest.approx(margin, rel=1e-9 if exact else 0.1)


def test_prompts_are_left_out_of_all_tables_with_all_their_seeds() -> None:
    base, adapter = np.arange(12.0).reshape(3, 2, 2), -np.arange(6.0).reshape(3, 2)
    seen: list[tuple[list[float], list[float]]] = []

    def record(first: np.ndarray, second: np.ndarray) -> float:
        seen.append((first[:, 0, 0].tolist(), second[:, 1].tolist()))
        assert first.shape[1:] == (2, 2)
        return 0.0

    jackknife_interval(record, base, adapter)
    assert seen == [
        ([0, 4, 8], [-1, -3, -5]),
        ([4, 8], [-3, -5]),
        ([0, 8], [-1, -5]),
        ([0, 4], [-1, -3]),
    ]


def test_one_prompt_has_no_interval() -> None:
    base, adapter = np.zeros((1, 3)), np.ones((1, 3))
    for interval in (
        paired_difference(base, adapter),
        jackknife_difference(np.mean, base, adapter),
        jackknife_ratio(np.mean, adapter, adapter),
    ):
        assert interval.mean == 1
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_prompts_that_agree_are_few_all_the_same() -> None:
    none, all_of_them = np.zeros((3, 2)), np.ones((3, 2))
    found = share_difference(none, all_of_them)
    assert (found.mean, found.high) == (1, 1) and found.low < 0.2
    assert share_difference(np.zeros((20, 2)), np.ones((20, 2))).low > 0.7
    few = share_difference(none, none)
    assert few.mean == 0 and few.low == -few.high and few.low >= -1
    assert np.isnan(share_difference(none[:1], all_of_them[:1]).low)


def test_an_interval_is_printed_with_its_bounds_where_it_has_some() -> None:
    assert str(Interval(1.0, math.nan, math.nan)) == "+1.000"
    assert str(Interval(0.5, 0.25, 0.75)) == "+0.500 [+0.250, +0.750]"


def test_equal_differences_have_an_interval_of_no_width() -> None:
    base = np.arange(8.0)[:, None] * np.ones((8, 2))
    for interval in (
        paired_difference(base, base + 0.5),
        jackknife_difference(np.mean, base, base + 0.5),
    ):
        assert interval.mean == 0.5
        assert bounds(interval) == pytest.approx((0.5, 0.5), abs=1e-12)


def test_an_adapter_that_changes_nothing_has_an_interval_of_no_width() -> None:
    pictures = np.random.default_rng(0).normal(size=(5, 2, 6))
    references = np.random.default_rng(1).normal(size=(10, 6))
    for distance in (kid, cmmd):
        interval = jackknife_difference(
            lambda some, distance=distance: distance(some.reshape(-1, 6), references),
            pictures,
            pictures,
        )
        assert interval == Interval(0.0, 0.0, 0.0)
    spread = diversity(pictures)
    assert jackknife_ratio(np.mean, spread, spread) == Interval(1.0, 1.0, 1.0)


def test_a_collapsed_adapter_is_at_zero() -> None:
    base = np.linspace(0.1, 0.2, 8)
    assert jackknife_ratio(np.mean, base, np.zeros(8)) == Interval(0.0, 0.0, 0.0)
    assert str(jackknife_ratio(np.mean, base[:1], np.zeros(1))) == "+0.000"


def test_a_ratio_that_hangs_on_one_prompt_has_no_bounds() -> None:
    some, one = np.full(4, 0.2), np.array([0.0, 0.4, 0, 0])
    for interval, ratio in (
        (jackknife_ratio(np.mean, some, one), 0.5),
        (jackknife_ratio(np.mean, one, some), 2),
        (jackknife_ratio(np.mean, one, one), 1),
    ):
        assert interval.mean == pytest.approx(ratio)
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_the_same_arrays_give_the_same_interval() -> None:
    base, adapter = tables(20, 2)
    first, second = (jackknife_difference(np.var, base, adapter) for _ in range(2))
    assert first == second


def test_what_is_too_few_without_a_prompt_has_no_bounds() -> None:
    """KID of 2 prompts × 1 seed: without a prompt, one picture is left."""
    pictures = np.random.default_rng(0).normal(size=(2, 2, 1, 4))
    references = np.ones((3, 4))
    interval = jackknife_difference(
        lambda some: kid(some.reshape(-1, 4), references), pictures[0], pictures[1]
    )
    expected = kid(pictures[1, :, 0], references) - kid(pictures[0, :, 0], references)
    assert interval.mean == expected
    assert math.isnan(interval.low)


def test_what_the_statistic_refuses_of_all_prompts_is_refused() -> None:
    pictures = np.ones((3, 2, 4))
    pictures[1, 0, 2] = np.nan
    with pytest.raises(ElfError, match=r"the embedding of row 2 holds NaN"):
        jackknife_difference(
            lambda some: kid(some.reshape(-1, 4), np.ones((3, 4))), np.ones((3, 2, 4)), pictures
        )
