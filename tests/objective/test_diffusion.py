"""Noise and targets against their formulas and against diffusers."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from elf.objective import diffusion

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


def test_what_a_sample_draws_depends_on_its_seed_alone() -> None:
    def draw(seeds: list[int]) -> torch.Tensor:
        sources = diffusion.generators(torch.tensor(seeds))
        diffusion.draw_uniform(sources)
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


def test_noise_is_standard_normal_and_numbers_uniform() -> None:
    sources = diffusion.generators(torch.arange(4000))
    numbers = diffusion.draw_uniform(sources)
    noise = diffusion.draw_noise(sources, (1, 4, 4))
    assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert numbers.mean() == pytest.approx(0.5, abs=4 * 0.289 / math.sqrt(4000))
    assert 0 <= numbers.min() < 0.01 < 0.99 < numbers.max() < 1
