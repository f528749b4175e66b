"""Noise, targets and losses of denoising diffusion, as pure functions.

Symbols follow the papers: x₀ latents, ε noise, t timestep, ᾱ_t the product of all (1 − β) up to t.
Shapes: B samples, C latent channels, h × w latent pixels, T training timesteps, K strata.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]


def generators(seeds: Int[Tensor, " B"], stream: int = 0) -> list[torch.Generator]:
    """Return one CPU generator for each sample, seeded by its own seed and a stream number.

    What a sample draws so depends on nothing but its seed: not on its batch, the order, the number
    of workers or ranks, or the device that trains.
    """
    # splitmix64's increment keeps the streams of one seed apart
    mask = (1 << 63) - 1
    return [
        torch.Generator().manual_seed((int(seed) + stream * 0x9E3779B97F4A7C15) & mask)
        for seed in seeds
    ]


def draw_noise(
    sources: list[torch.Generator], shape: tuple[int, int, int]
) -> Float[Tensor, "B C h w"]:
    """Draw standard normal noise of a shape (C, h, w) from each generator."""
    return torch.stack([torch.randn(shape, generator=source) for source in sources])


def draw_timesteps(sources: list[torch.Generator], count: int) -> Int[Tensor, " B"]:
    """Draw a uniform timestep in [0, count) from each generator."""
    return torch.stack([torch.randint(count, (), generator=source) for source in sources])


def stratified_timesteps(strata: int, count: int) -> Int[Tensor, " K"]:
    """Return the middles of K equal parts of the timesteps [0, count): a fixed quadrature."""
    return ((torch.arange(strata) + 0.5) * count / strata).long()


def add_noise(
    latents: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    timesteps: Int[Tensor, " B"],
    alphas_cumprod: Float[Tensor, " T"],
) -> Float[Tensor, "B C h w"]:
    """Return x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε (Ho et al. 2020, equation 4)."""
    alpha = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target(
    prediction_type: str,
    latents: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    timesteps: Int[Tensor, " B"],
    alphas_cumprod: Float[Tensor, " T"],
) -> Float[Tensor, "B C h w"]:
    """Return what the network is to predict.

    ε itself (Ho et al. 2020), or v = √ᾱ_t ε − √(1 − ᾱ_t) x₀ (Salimans & Ho 2022, appendix D).
    """
    if prediction_type == "epsilon":
        return noise
    alpha = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def min_snr_weight(
    prediction_type: str,
    timesteps: Int[Tensor, " B"],
    alphas_cumprod: Float[Tensor, " T"],
    gamma: float,
) -> Float[Tensor, " B"]:
    """Return the min-SNR-γ weight of each sample (Hang et al. 2023, section 3.4).

    min(SNR, γ) / SNR for an ε target, min(SNR, γ) / (SNR + 1) for a v target, with
    SNR = ᾱ_t / (1 − ᾱ_t).
    """
    alpha = alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    capped = snr.clamp(max=gamma)
    return capped / snr if prediction_type == "epsilon" else capped / (snr + 1)


def squared_error(
    prediction: Float[Tensor, "B C h w"], wanted: Float[Tensor, "B C h w"]
) -> Float[Tensor, " B"]:
    """Return the mean squared error of each sample, in float32 whatever the inputs are."""
    return (prediction.float() - wanted.float()).square().mean(dim=(1, 2, 3))
