"""Trains the tiny base's VAE: reconstruction of pixels and edges, and a light pull to N(0, 1)."""

from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from elf.tiny.base import autoencoder
from elf.tiny.loop import Average, Budget, train
from elf.tiny.store import save_half

KL_WEIGHT = 1e-4
"""Of the divergence from N(0, 1), mean over latents (Stable Diffusion sums and takes 1e-6)."""


def to_pixels(
    batch: UInt8[Tensor, "batch height width 3"],
) -> Float[Tensor, "batch 3 height width"]:
    """Bytes to the VAE's range, -1 to 1."""
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
    """Differences to the neighbour below and to the right."""
    return pixels[..., 1:, :] - pixels[..., :-1, :], pixels[..., 1:] - pixels[..., :-1]


def reconstruction_error(
    painted: Float[Tensor, "batch 3 height width"], pixels: Float[Tensor, "batch 3 height width"]
) -> Tensor:
    """L1 and squared error of the pixels, and L1 of their edges, which keeps lines sharp."""
    error = (painted - pixels).abs().mean() + (painted - pixels).square().mean()
    for ours, theirs in zip(edges(painted), edges(pixels), strict=True):
        error = error + (ours - theirs).abs().mean()
    return error


def fit_vae(images: list[Tensor], budget: Budget) -> AutoencoderKL:
    """Train a VAE on pictures of several sizes.

    Args:
        images: one uint8 tensor (pictures, height, width, 3) a size, on the device.
        budget: of the training.

    Returns:
        The VAE in evaluation mode; its scaling factor gives latents of variance 1.
    """
    torch.manual_seed(budget.seed)
    vae = autoencoder().to(budget.device)
    average = Average(vae, 0.998)

    def loss(group: Tensor) -> Tensor:
        pixels = to_pixels(group[torch.randint(len(group), (budget.batch,), device=group.device)])
        posterior = vae.encode(pixels).latent_dist
        painted = vae.decode(posterior.sample()).sample.float()
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        total: Tensor = reconstruction_error(painted, pixels) + KL_WEIGHT * divergence
        return total

    shares = [float(len(group)) for group in images]
    losses = [partial(loss, group) for group in images]
    train("vae", [vae], budget, losses, [average], shares)
    trained: AutoencoderKL = average.model
    deviation = torch.cat([encode(trained, part[:512])[0].flatten() for part in images]).std()
    trained.register_to_config(scaling_factor=round(1 / float(deviation), 4))
    return trained


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the unscaled latents, (pictures, 4, height / 4, width / 4)."""
    parts = [vae.encode(to_pixels(part)).latent_dist for part in torch.split(images, 256)]
    return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])


def refine_decoder(folder: str | Path, images: list[Tensor], budget: Budget) -> Path:
    """Train a stored base's decoder alone, further: its latents stay what the UNet knows.

    Args:
        folder: of the base; its VAE is written anew.
        images: as for `fit_vae`.
        budget: of the training.
    """
    torch.manual_seed(budget.seed + 2)
    place = Path(folder) / "vae"
    vae = AutoencoderKL.from_pretrained(place).to(budget.device)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    average = Average(vae, 0.99)
    targets = [(group, *encode(vae, group)) for group in images]

    def loss(group: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        pictures, mean, deviation = group
        chosen = torch.randint(len(pictures), (budget.batch,), device=pictures.device)
        pixels = to_pixels(pictures[chosen])
        latents = mean[chosen] + deviation[chosen] * torch.randn_like(mean[chosen])
        return reconstruction_error(vae.decode(latents).sample.float(), pixels)

    losses = [partial(loss, group) for group in targets]
    shares = [float(len(group)) for group in images]
    train("decoder", [vae], budget, losses, [average], shares)
    save_half(average.model.cpu(), place)
    return place
