"""What is random about a training sample, drawn from its own seed."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from elf.objective.config import ObjectiveConfig
from elf.objective.diffusion import draw_noise, draw_uniform, generators
from elf.objective.noising import offset_noise, perturb
from elf.objective.timesteps import timesteps_at


def draw(batch: Mapping[str, Any], config: ObjectiveConfig, count: int) -> dict[str, Tensor]:
    """Return timesteps (B,), and latents, noise and input_noise, each (B, C, h, w).

    Noise is the target's, input_noise what the latents are mixed with. A sample draws, from the
    generator of its seed: its timestep, its latents from the VAE's posterior, its noise, and then
    what the objective has of offsets (C numbers) and perturbation.

    Args:
        batch: With ``seed`` (B,), ``latent_mean`` and ``latent_std`` (B, C, h, w).
        config: The objective.
        count: Timesteps of the base.
    """
    sources = generators(batch["seed"])
    mean, std = batch["latent_mean"], batch["latent_std"]
    shape = (mean.shape[1], mean.shape[2], mean.shape[3])
    timesteps = timesteps_at(draw_uniform(sources), config.timesteps, count)
    latents = mean + std * draw_noise(sources, shape)
    noise = draw_noise(sources, shape)
    if config.noise_offset:
        offsets = draw_noise(sources, (shape[0], 1, 1))
        noise = offset_noise(noise, offsets, config.noise_offset)
    drawn = {"timesteps": timesteps, "latents": latents, "noise": noise, "input_noise": noise}
    if config.input_perturbation:
        extra = draw_noise(sources, shape)
        drawn["input_noise"] = perturb(noise, extra, config.input_perturbation)
    return drawn
