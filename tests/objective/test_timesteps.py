"""Timestep distributions against their formulas, drawn and integrated."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from elf.errors import ElfError
from elf.objective import ObjectiveConfig, TimestepConfig, strata, timesteps_at

T = 1000
FINE = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def density(config: TimestepConfig) -> np.ndarray:
    """The share of samples in each tenth of the timesteps."""
    counts = torch.bincount(timesteps_at(FINE, config, T) // 100, minlength=10)
    return (counts / len(FINE)).numpy()


def test_uniform_hits_every_timestep_alike() -> None:
    counts = torch.bincount(timesteps_at(FINE, TimestepConfig(), T))
    assert len(counts) == T
    assert counts.min() == counts.max() == 200


def test_the_largest_number_below_one_gives_the_last_timestep() -> None:
    u = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for name in ("uniform", "logit_normal", "mode", "cosmap"):
        found = timesteps_at(u, TimestepConfig(distribution=name), T)
        assert found.tolist() == [0, T - 1], name


def test_bounds_are_included() -> None:
    found = timesteps_at(FINE, TimestepConfig(first=200, last=400), T)
    assert (int(found.min()), int(found.max())) == (200, 400)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7), (1.0, 2.0)])
def test_logit_normal_is_that_of_a_normal_variable(mean: float, std: float) -> None:
    edges = np.linspace(0, 1, 11)
    with np.errstate(divide="ignore"):
        logits = np.log(edges / (1 - edges))
    wanted = np.diff(stats.norm(mean, std).cdf(logits))
    config = TimestepConfig("logit_normal", mean=mean, std=std)
    np.testing.assert_allclose(density(config), wanted, atol=1e-4)


def test_cosmap_has_the_papers_density() -> None:
    """Esser et al. 2024, equation 21: π(t) = 2 / (π − 2πt + 2πt²)."""
    t = (np.arange(1000) + 0.5) / 1000
    shares = (2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2)).reshape(10, 100).mean(axis=1)
    np.testing.assert_allclose(density(TimestepConfig("cosmap")), shares / 10, atol=1e-4)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29, 1.75])
def test_mode_is_the_papers_function_of_a_uniform_number(scale: float) -> None:
    """Ibid., equation 20: f(u) = 1 − u − s (cos²(πu/2) − 1 + u), here of 1 − u."""
    u = np.random.default_rng(0).random(100_000)
    t = 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    wanted = np.histogram(t, 10, (0, 1))[0] / len(t)
    found = density(TimestepConfig("mode", mode_scale=scale))
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_shift_moves_towards_noise() -> None:
    u = torch.tensor([0.25, 0.5], dtype=torch.float64)
    found = timesteps_at(u, TimestepConfig(shift=3.0), T)
    assert found.tolist() == [500, 750]  # 3t / (1 + 2t)


@pytest.mark.parametrize("name", ["uniform", "logit_normal", "mode", "cosmap"])
def test_quantiles_rise(name: str) -> None:
    found = timesteps_at(FINE, TimestepConfig(name), T)
    assert (found.diff() >= 0).all()


def test_strata_are_the_middles_of_parts_of_equal_probability() -> None:
    assert strata(4, TimestepConfig(), T).tolist() == [125, 375, 625, 875]
    assert strata(2, TimestepConfig(first=100, last=299), T).tolist() == [150, 250]
    narrow = strata(4, TimestepConfig("logit_normal", std=0.1), T)
    assert 400 < narrow.min() < narrow.max() < 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": -1}, ".first -1 is before the first timestep: at least 0"),
        ({"first": 5, "last": 4}, ".last 4 is before first (5)"),
        ({"std": 0.0}, ".std 0.0 must be above 0"),
        ({"mode_scale": 2.0}, ".mode_scale 2.0 must be from -1 to 1.75"),
        ({"shift": 0.0}, ".shift 0.0 must be above 0; 1 moves nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ElfError) as error:
        ObjectiveConfig(timesteps=TimestepConfig(**options))
    assert str(error.value) == f"model.objective.timesteps{message}"


def test_timesteps_that_the_base_does_not_have_are_refused() -> None:
    with pytest.raises(ElfError, match=r"timesteps: 0 to 1000 is beyond the base's last .*, 999"):
        timesteps_at(FINE, TimestepConfig(last=1000), T)
