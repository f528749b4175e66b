"""Weights against their formulas, against diffusers, and where they are not finite."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from elf.errors import ElfError
from elf.objective import (
    ObjectiveConfig,
    TimestepConfig,
    refuse_singular,
    signal_to_noise,
    weight,
)

ALPHAS = torch.tensor([0.9, 0.5, 0.2])  # SNR 9, 1, 0.25
ZERO = torch.tensor([0.9, 0.5, 0.0])
STEPS = torch.arange(3)


def test_signal_to_noise_agrees_with_diffusers() -> None:
    reference = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    timesteps = torch.tensor([0, 10, 500, 998])
    torch.testing.assert_close(
        signal_to_noise(timesteps, reference.alphas_cumprod), compute_snr(reference, timesteps)
    )


@pytest.mark.parametrize(
    ("weighting", "prediction_type", "wanted"),
    [
        ("none", "epsilon", [1.0, 1.0, 1.0]),
        ("min_snr", "epsilon", [5 / 9, 1.0, 1.0]),
        ("min_snr", "v_prediction", [5 / 10, 1 / 2, 0.25 / 1.25]),
        ("debiased", "epsilon", [1 / 3, 1.0, 2.0]),
        ("debiased", "v_prediction", [1 / 10, 1 / 2, 1 / 1.25]),
    ],
)
def test_weights_by_hand(weighting: str, prediction_type: str, wanted: list[float]) -> None:
    found = weight(weighting, prediction_type, STEPS, ALPHAS, 5.0)
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_debiased_weight_is_capped_at_an_snr_of_1000() -> None:
    found = weight("debiased", "epsilon", torch.tensor([0]), torch.tensor([0.9999]), 5.0)
    assert found.item() == pytest.approx(1 / math.sqrt(1000))


@pytest.mark.parametrize(
    ("weighting", "problem"), [("min_snr", "is 0/0"), ("debiased", "is infinite")]
)
def test_an_epsilon_weight_at_no_signal_is_refused(weighting: str, problem: str) -> None:
    config = ObjectiveConfig(weighting=weighting)
    with pytest.raises(ElfError) as error:
        refuse_singular(config, "epsilon", ZERO)
    assert str(error.value) == (
        "model.objective.weighting: at timestep 2 the base has no signal (zero-terminal SNR), "
        f"where {weighting} of an ε loss {problem}; take none, or set timesteps.last to 1"
    )
    assert refuse_singular(config, "epsilon", ALPHAS) == ""
    short = ObjectiveConfig(weighting=weighting, timesteps=TimestepConfig(last=1))
    assert refuse_singular(short, "epsilon", ZERO) == ""


def test_a_v_weight_of_0_is_told() -> None:
    config = ObjectiveConfig(weighting="min_snr")
    assert refuse_singular(config, "v_prediction", ZERO).startswith(
        "min_snr gives timestep 2 weight 0 (zero-terminal SNR): it trains nothing there"
    )
    debiased = ObjectiveConfig(weighting="debiased")
    assert refuse_singular(debiased, "v_prediction", ZERO) == ""
    assert refuse_singular(ObjectiveConfig(weighting="none"), "epsilon", ZERO) == ""
