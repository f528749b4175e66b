"""Noise, targets and weights against their formulas and against diffusers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from elf import diffusion

ALPHAS = torch.linspace(0.99, 0.01, 100)


def scheduler(prediction_type: str) -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
    )


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(5, 4, 6, 8, generator=random)
    noise = torch.randn(5, 4, 6, 8, generator=random)
    return latents, noise, torch.tensor([0, 1, 250, 640, 999])


def test_noising_agrees_with_diffusers(batch) -> None:
    ours = diffusion.add_noise(*batch, scheduler("epsilon").alphas_cumprod)
    torch.testing.assert_close(ours, scheduler("epsilon").add_noise(*batch))


def test_targets_agree_with_diffusers(batch) -> None:
    latents, noise, timesteps = batch
    reference = scheduler("v_prediction")
    alphas = reference.alphas_cumprod
    assert torch.equal(diffusion.target("epsilon", *batch, alphas), noise)
    torch.testing.assert_close(
        diffusion.target("v_prediction", *batch, alphas),
        reference.get_velocity(latents, noise, timesteps),
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_agrees_with_diffusers(prediction_type: str) -> None:
    reference = scheduler(prediction_type)
    timesteps = torch.tensor([0, 10, 500, 998])
    snr = compute_snr(reference, timesteps)
    divisor = snr if prediction_type == "epsilon" else snr + 1
    torch.testing.assert_close(
        diffusion.min_snr_weight(prediction_type, timesteps, reference.alphas_cumprod, 5.0),
        snr.clamp(max=5.0) / divisor,
    )


def test_min_snr_by_hand() -> None:
    alphas = torch.tensor([0.9, 0.5])  # SNR 9 and 1
    weights = diffusion.min_snr_weight("epsilon", torch.tensor([0, 1]), alphas, 5.0)
    assert weights.tolist() == pytest.approx([5 / 9, 1.0])


def test_what_a_sample_draws_depends_on_its_seed_alone() -> None:
    def draw(seeds: list[int]) -> torch.Tensor:
        sources = diffusion.generators(torch.tensor(seeds))
        diffusion.draw_timesteps(sources, 1000)
        return diffusion.draw_noise(sources, (4, 3, 5))

    together, alone = draw([7, 8, 9]), draw([8])
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_streams_of_one_seed_differ() -> None:
    seeds = torch.tensor([2**62 + 5])
    first, second = (
        diffusion.draw_noise(diffusion.generators(seeds, stream), (1, 8, 8)) for stream in (1, 2)
    )
    assert not torch.equal(first, second)


def test_noise_is_standard_normal_and_timesteps_uniform() -> None:
    sources = diffusion.generators(torch.arange(4000))
    timesteps = diffusion.draw_timesteps(sources, 1000).float()
    noise = diffusion.draw_noise(sources, (1, 4, 4))
    assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert timesteps.mean() == pytest.approx(499.5, abs=4 * 289 / math.sqrt(4000))
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999


def test_strata_are_the_middles_of_equal_parts() -> None:
    assert diffusion.stratified_timesteps(4, 1000).tolist() == [125, 375, 625, 875]


def test_squared_error_is_float32_and_per_sample() -> None:
    prediction = torch.full((2, 1, 2, 2), 300.0, dtype=torch.float16)
    wanted = torch.zeros(2, 1, 2, 2, dtype=torch.float16)
    wanted[1] = 300.0
    # 300² overflows float16
    assert diffusion.squared_error(prediction, wanted).tolist() == [90000.0, 0.0]
