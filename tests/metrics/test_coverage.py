"""Do 95 % intervals hold the truth 95 % of the time? Simulated at 8 and at 20 prompts.

Prompts are random effects with noise of seeds nested in them.
"""

from collections.abc import Callable

import numpy as np
import pytest

from elf.metrics import Interval, paired_difference

DRAWS = 10_000


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.normal(size=shape)


def skewed(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0, variance 1, skewness 1."""
    return (random.gamma(4, size=shape) - 4) / 2


def very_skewed(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0, variance 1, skewness 2."""
    return random.exponential(size=shape) - 1


def coverage(truth: float, interval: Callable[[np.random.Generator], Interval]) -> float:
    random = np.random.default_rng(2)
    found = [interval(random) for _ in range(DRAWS)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


Effects = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def of_means(prompts: int, effects: Effects) -> float:
    """Skewed difficulties of prompts, effects of the adapter around 0.2, two noisy seeds each."""

    def interval(random: np.random.Generator) -> Interval:
        difficulty = random.gamma(2, 0.1, size=(prompts, 1))
        effect = 0.2 + 0.1 * effects(random, (prompts, 1))
        base, adapter = difficulty, difficulty + effect
        noise = random.normal(0, 0.02, size=(2, prompts, 2))
        return paired_difference(base + noise[0], adapter + noise[1])

    return coverage(0.2, interval)


@pytest.mark.parametrize("effects", [normal, skewed])
@pytest.mark.parametrize("prompts", [8, 20])
def test_differences_of_means(prompts: int, effects: Effects) -> None:
    assert 0.93 <= of_means(prompts, effects) <= 0.97


@pytest.mark.parametrize("prompts", [8, 20])
def test_where_it_does_not_hold(prompts: int) -> None:
    """Of differences of skewness 2, 90 and 91 %: below, and not by much."""
    assert 0.88 <= of_means(prompts, very_skewed) < 0.93
