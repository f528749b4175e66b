"""Do 95 % intervals hold the truth 95 % of the time? Simulated at 8 and at 20 prompts.

Prompts are random effects with noise of seeds nested in them. Pictures come from a finite world of
prompts and of variants of each, drawn with replacement, so that the truth is a sum over the world.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from elf.metrics import (
    Interval,
    cmmd,
    diversity,
    jackknife_interval,
    jackknife_ratio,
    kid,
    normalise,
    paired_difference,
    share_difference,
)

DRAWS = 10_000
WIDTH = 6
SLOW = pytest.mark.slow


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.normal(size=shape)


def skewed(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0, variance 1, skewness 1."""
    return (random.gamma(4, size=shape) - 4) / 2


def very_skewed(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0, variance 1, skewness 2."""
    return random.exponential(size=shape) - 1


def coverage(
    truth: float, interval: Callable[[np.random.Generator], Interval], draws: int = DRAWS
) -> float:
    random = np.random.default_rng(2)
    found = [interval(random) for _ in range(draws)]
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
@pytest.mark.parametrize("prompts", [8, pytest.param(20, marks=SLOW)])
def test_differences_of_means(prompts: int, effects: Effects) -> None:
    assert 0.93 <= of_means(prompts, effects) <= 0.97


@pytest.mark.parametrize("prompts", [8, pytest.param(20, marks=SLOW)])
def test_where_it_does_not_hold(prompts: int) -> None:
    """What the docstring admits of skewness 2: it is below, and not by more than it says."""
    assert 0.88 <= of_means(prompts, very_skewed) < 0.93


@pytest.mark.parametrize(
    ("base", "adapter"),
    [(0.5, 0.5), (0.05, 0.6), (0.99, 0.4), (0, 0.97), (0, 0.1), (0.02, 0.02)],
)
@pytest.mark.parametrize("spread", [0.001, 0.5])
@pytest.mark.parametrize("seeds", [2, 4])
@pytest.mark.parametrize("prompts", [8, pytest.param(20, marks=SLOW)])
def test_shares_are_held_however_rare(
    prompts: int, seeds: int, spread: float, base: float, adapter: float
) -> None:
    """Whether pictures show a tag, more and less likely by prompt; never too narrow."""

    def shown(random: np.random.Generator, share: float) -> np.ndarray:
        if share == 0:
            return np.zeros((prompts, seeds))
        likely = random.beta(share / spread, (1 - share) / spread, size=(prompts, 1))
        return random.binomial(1, likely, size=(prompts, seeds)).astype(float)

    def interval(random: np.random.Generator) -> Interval:
        return share_difference(shown(random, base), shown(random, adapter))

    found = coverage(adapter - base, interval, draws=2_000)
    assert found >= 0.94
    if min(base, adapter) > 0.04 and max(base, adapter) < 0.9:
        assert found <= 0.996


class World(NamedTuple):
    """Pictures of all prompts in all variants, (64, 16, D), and the references, (40, D)."""

    base: np.ndarray
    adapter: np.ndarray
    references: np.ndarray

    @staticmethod
    def draw(random: np.random.Generator, prompts: int, seeds: int) -> np.ndarray:
        """Draw prompts, and variants of each: rows (P, S) of all pictures."""
        return 16 * random.integers(64, size=(prompts, 1)) + random.integers(
            16, size=(prompts, seeds)
        )


def world(effects: Effects) -> World:
    """The adapter is nearer to the references, follows prompts less and varies less with seeds."""
    random = np.random.default_rng(3)
    shared, own = effects(random, (2, 64, 1, WIDTH))
    seeds = effects(random, (2, 64, 16, WIDTH))
    references = 1 + 0.7 * random.normal(size=(40, WIDTH))
    base = 0.3 + 0.6 * shared + 0.5 * seeds[0]
    adapter = 0.8 + 0.4 * (0.8 * shared + 0.6 * own) + 0.3 * seeds[1]
    return World(base, adapter, references)


class Distance:
    """KID or CMMD of a world's pictures to its references, by kernels that are computed once."""

    def __init__(self, pictures: np.ndarray, references: np.ndarray, of: object) -> None:
        if of is cmmd:
            pictures, references = normalise(pictures), normalise(references)

        def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            products = first @ second.T
            if of is kid:
                return (products / WIDTH + 1) ** 3
            squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * products
            return 1000 * np.exp(-squares / 200)

        self.pairs = kernel(pictures, pictures)
        self.across = kernel(pictures, references).mean(axis=1)
        known = kernel(references, references)
        self.within = (known.sum() - np.trace(known)) / (len(known) * (len(known) - 1))
        self.truth = self.pairs.mean() + self.within - 2 * self.across.mean()  # of iid draws

    def __call__(self, chosen: np.ndarray) -> float:
        rows = chosen.ravel()
        others = self.pairs[np.ix_(rows, rows)].sum() - self.pairs[rows, rows].sum()
        own = others / (len(rows) * (len(rows) - 1))
        return float(own + self.within - 2 * self.across[rows].mean())


def true_diversity(pictures: np.ndarray) -> float:
    units = normalise(pictures)
    return float(1 - np.einsum("pvd,pwd->pvw", units, units).mean())


@pytest.mark.parametrize("effects", [normal, skewed])
@pytest.mark.parametrize(
    ("prompts", "seeds", "draws"),
    [(8, 2, 2000)] + [pytest.param(p, s, DRAWS, marks=SLOW) for p in (8, 20) for s in (2, 4)],
)
def test_ratios_of_diversities(prompts: int, seeds: int, draws: int, effects: Effects) -> None:
    whole = world(effects)
    base, adapter = (side.reshape(-1, WIDTH) for side in (whole.base, whole.adapter))
    truth = true_diversity(whole.adapter) / true_diversity(whole.base)
    assert 0.1 < truth < 0.4

    def interval(random: np.random.Generator) -> Interval:
        chosen = whole.draw(random, prompts, seeds)
        return jackknife_ratio(np.mean, diversity(base[chosen]), diversity(adapter[chosen]))

    assert 0.93 <= coverage(truth, interval, draws) <= 0.97


@pytest.mark.parametrize("effects", [normal, skewed])
@pytest.mark.parametrize("of", [kid, cmmd])
@pytest.mark.parametrize(
    ("prompts", "seeds", "draws"),
    [(8, 2, 2000)] + [pytest.param(p, s, DRAWS, marks=SLOW) for p in (8, 20) for s in (2, 4)],
)
def test_differences_of_distances(
    prompts: int, seeds: int, draws: int, of: Callable[..., float], effects: Effects
) -> None:
    whole = world(effects)
    base, adapter = (side.reshape(-1, WIDTH) for side in (whole.base, whole.adapter))
    before, after = (Distance(side, whole.references, of) for side in (base, adapter))
    truth = after.truth - before.truth
    assert truth < 0
    some = np.random.default_rng(4).integers(len(base), size=30)
    assert before(some) == pytest.approx(of(base[some], whole.references), rel=1e-9)
    assert after(some) == pytest.approx(of(adapter[some], whole.references), rel=1e-9)

    def interval(random: np.random.Generator) -> Interval:
        chosen = whole.draw(random, prompts, seeds)
        return jackknife_interval(lambda rows: after(rows) - before(rows), chosen)

    assert 0.93 <= coverage(truth, interval, draws) <= 0.97
