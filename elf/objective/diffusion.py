"""Noise and targets of denoising diffusion, as pure functions.

Symbols follow the papers: x₀ latents, ε noise, t timestep, ᾱ_t the product of all (1 − β) up to t.
Shapes: B samples, C latent channels, h × w latent pixels, T training timesteps.
"""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


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


def draw_uniform(sources: list[torch.Generator]) -> Float64[Tensor, " B"]:
    """Draw one number in [0, 1) from each generator."""
    return torch.stack(
        [torch.rand((), generator=source, dtype=torch.float64) for source in sources]
    )


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
