"""Trains the tiny base: first the VAE, then UNet and text encoder together on its latents."""

import copy
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from elf.tiny.base import pipeline, save
from elf.tiny.captions import CAPTIONS, Tokens, caption_tokens
from elf.tiny.data import BASE, EVERYTHING, Pictures, Size, draw_splits
from elf.tiny.loop import Average, Budget, train
from elf.tiny.train_vae import encode, fit_vae, refine_decoder

CAPTION_DROPOUT = 0.1
"""Share of the pictures shown without a caption, for classifier-free guidance."""

NOISE_OFFSET = 0.1
"""Noise common to a channel. At the last timestep of SD 1.5's schedule the mean of a picture
still shows through; without this the model trusts it, and nights come out grey."""

MIN_SNR = 5.0
"""γ of the min-SNR weight (Hang et al. 2023)."""

NAMING_WEIGHT = 0.05
"""Of the loss that keeps each token readable from the text encoder's output. Otherwise the
encoder forgets words that say nothing about the training pictures, and no adapter could tell
a new trigger from any other word."""


@dataclass
class Material:
    """What one picture size has for the UNet, on the device."""

    mean: Tensor
    deviation: Tensor
    tokens: Tensor


def fit(
    folder: str | Path,
    vae_budget: Budget,
    budget: Budget,
    count: int = 24000,
    seconds: float = math.inf,
    workers: int = 1,
    cache: Path | None = None,
) -> Path:
    """Train the base on `count` square pictures, half as many others, and write it.

    Args:
        folder: where to write the pipeline.
        vae_budget: of the VAE; it sees a leaf crown now and then, the UNet never does.
        budget: of UNet and text encoder.
        count: of square pictures for the UNet.
        seconds: a bound on the whole run; the VAE gets at most two fifths of it.
        workers: processes that draw.
        cache: folder that keeps drawings and the VAE for the next call.
    """
    started = time.monotonic()
    device = budget.device
    pipe = pipeline(budget.seed)
    stored = cache / f"vae-{count}-{vae_budget.steps}" if cache else None
    if stored is not None and stored.exists():
        pipe.vae = AutoencoderKL.from_pretrained(stored).to(device)
    else:
        images = _vae_pictures(count, workers, cache, device)
        pipe.vae = fit_vae(images, replace(vae_budget, seconds=0.4 * seconds))
        if stored is not None:
            pipe.vae.save_pretrained(stored)
    tokens = caption_tokens(count, cache)
    materials = _materials(pipe, draw_splits(BASE, count, workers, cache), tokens, device)
    left = seconds - (time.monotonic() - started)
    fit_unet(pipe, materials, replace(budget, seconds=left), Path(folder))
    return save(pipe.to("cpu"), folder)


def refine(
    folder: str | Path, budget: Budget, count: int, workers: int = 1, cache: Path | None = None
) -> Path:
    """Train the decoder of a stored base further; everything else stays as it is."""
    return refine_decoder(folder, _vae_pictures(count, workers, cache, budget.device), budget)


def _vae_pictures(count: int, workers: int, cache: Path | None, device: str) -> list[Tensor]:
    # 10,000 for 24,000 of the UNet: the tagger's pictures, so that one set serves both.
    seen = draw_splits(EVERYTHING, round(count / 2.4), workers, cache)
    return [torch.from_numpy(array).to(device) for array in seen.values()]


def _materials(
    pipe: StableDiffusionPipeline,
    arrays: dict[Size, Pictures],
    tokens: dict[Size, Tokens],
    device: str,
) -> list[Material]:
    factor = pipe.vae.config.scaling_factor
    materials = []
    for size, array in arrays.items():
        mean, deviation = encode(pipe.vae, torch.from_numpy(array).to(device))
        words = torch.from_numpy(tokens[size]).to(device)
        materials.append(Material(mean * factor, deviation * factor, words))
    return materials


def fit_unet(
    pipe: StableDiffusionPipeline,
    materials: list[Material],
    budget: Budget,
    folder: Path | None = None,
) -> None:
    """Train the pipeline's UNet and text encoder in place (ε-prediction, min-SNR).

    Args:
        pipe: the pipeline, its VAE trained.
        materials: latents and captions of each picture size.
        budget: of the training.
        folder: where the pipeline so far is written half-way, in case the run breaks off.
    """
    device = budget.device
    torch.manual_seed(budget.seed + 1)
    unet, text_encoder = pipe.unet.to(device), pipe.text_encoder.to(device)
    unet.train()
    text_encoder.train()
    averages = [Average(unet, 0.999), Average(text_encoder, 0.999)]
    naming = nn.Linear(text_encoder.config.hidden_size, text_encoder.config.vocab_size).to(device)
    noising = DDPMScheduler.from_config(pipe.scheduler.config)
    alphas = noising.alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    weights = snr.clamp(max=MIN_SNR) / snr
    empty = torch.tensor(pipe.tokenizer("", padding="max_length", max_length=77)["input_ids"])
    empty = empty.to(device)
    end = pipe.tokenizer.eos_token_id

    def loss(material: Material) -> Tensor:
        size = budget.batch
        chosen = torch.randint(len(material.mean), (size,), device=device)
        which = torch.randint(CAPTIONS, (size,), device=device)
        tokens = material.tokens[chosen, which].long()
        dropped = torch.rand(size, 1, device=device) < CAPTION_DROPOUT
        tokens = torch.where(dropped, empty, tokens)
        mean, deviation = material.mean[chosen], material.deviation[chosen]
        latents = mean + deviation * torch.randn_like(mean)
        noise = torch.randn_like(latents)
        noise = noise + NOISE_OFFSET * torch.randn(*noise.shape[:2], 1, 1, device=device)
        # One timestep from each of `size` equal strata: less variance than independent ones.
        places = torch.arange(size, device=device) + torch.rand(size, device=device)
        steps = (places / size * 1000).long().clamp(max=999)
        level = alphas[steps].view(-1, 1, 1, 1)
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        states = text_encoder(tokens)[0]
        predicted = unet(noisy, steps, states).sample.float()
        error = (predicted - noise).square().mean((1, 2, 3))
        named = F.cross_entropy(
            naming(states).float().transpose(1, 2), tokens.masked_fill(tokens == end, -100)
        )
        total: Tensor = (error * weights[steps]).mean() + NAMING_WEIGHT * named
        return total

    shares = [float(len(material.mean)) for material in materials]
    losses = [partial(loss, material) for material in materials]

    def halfway() -> None:
        if folder is not None:
            models = [copy.deepcopy(average.model) for average in averages]
            parts = pipe.components | {"unet": models[0], "text_encoder": models[1]}
            save(StableDiffusionPipeline(**parts, requires_safety_checker=False), folder)

    networks = [unet, text_encoder, naming]
    train("unet", networks, budget, losses, averages, shares, halfway=halfway)
    pipe.unet, pipe.text_encoder = averages[0].model, averages[1].model
