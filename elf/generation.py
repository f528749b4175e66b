"""Pictures from prompts: one fixed seed each, whatever the batch size and the device."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image


@dataclass
class GenerationConfig:
    """How pictures are sampled.

    Attributes:
        seed: Seed of the first prompt's starting noise; the next prompts take the next seeds.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale (Ho & Salimans 2022); 1 switches it off.
        negative_prompt: What to steer away from.
        width: Width in px; None takes the base's own size.
        height: Height in px; None takes the base's own size.
        batch_size: Pictures sampled at a time.
    """

    seed: int = 0
    steps: int = 30
    guidance: float = 7.5
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    batch_size: int = 1


@torch.inference_mode()
def generate(
    pipeline: Any,
    prompts: list[str],
    seeds: list[int],
    config: GenerationConfig,
    device: torch.device,
    output_type: Literal["pil", "np"] = "pil",
) -> list[Any]:
    """Sample one picture for each prompt and its seed, as PIL or as float arrays (H, W, 3) in 0..1.

    The VAE and the text encoders are moved to the device for it, and back to where they were
    afterwards: training needs the memory. Starting noise comes from CPU generators, so that a
    seed gives the same picture on every device, up to rounding.
    """
    pictures: list[Any] = []
    found = (getattr(pipeline, name, None) for name in ("vae", "text_encoder", "text_encoder_2"))
    homes = [(part, part.device) for part in found if part is not None]
    for part, _ in homes:
        part.to(device)
    try:
        for start in range(0, len(prompts), config.batch_size):
            chosen = prompts[start : start + config.batch_size]
            result = pipeline(
                prompt=chosen,
                negative_prompt=[config.negative_prompt] * len(chosen),
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                width=config.width,
                height=config.height,
                output_type=output_type,
                generator=[
                    torch.Generator("cpu").manual_seed(seed)
                    for seed in seeds[start : start + len(chosen)]
                ],
            )
            pictures += list(result.images)
    finally:
        for part, home in homes:
            part.to(home)
    return pictures


def grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Paste pictures into rows of a number of columns, on white, 2 px apart."""
    width = max(picture.width for picture in pictures) + 2
    height = max(picture.height for picture in pictures) + 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width - 2, rows * height - 2), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, ((index % columns) * width, (index // columns) * height))
    return sheet
