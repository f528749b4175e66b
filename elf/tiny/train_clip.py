"""Trains the tiny CLIP: which caption belongs to which drawing (Radford et al. 2021)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elf.tiny.clip import model, processor, save
from elf.tiny.data import Pictures
from elf.tiny.loop import Average, Budget, train
from elf.tiny.train_captioner import gather, normaliser
from elf.world.scene import Scene
from elf.world.words import caption, prompt_caption


def fit(
    folder: str | Path,
    budget: Budget,
    count: int = 10000,
    workers: int = 1,
    cache: Path | None = None,
) -> Path:
    """Train a CLIP on `count` square pictures, half as many others, and write it."""
    torch.manual_seed(budget.seed)
    device = budget.device
    array, scenes = gather(count, workers, cache)
    images = torch.from_numpy(array).to(device)
    prompts = processor()
    random = np.random.default_rng((budget.seed, 7))
    texts = [caption(scene) for scene in scenes]
    texts += [prompt_caption(scene, random) for scene in scenes]
    padded = prompts.tokenizer(texts, padding="max_length", max_length=77, truncation=True)
    tokens = torch.tensor(padded["input_ids"], dtype=torch.int16).view(2, len(scenes), 77)
    tokens = tokens.to(device)
    mask = torch.tensor(padded["attention_mask"], dtype=torch.bool).view(2, len(scenes), 77)
    mask = mask.to(device)
    clip = model(prompts).to(device)
    normalise = normaliser(device)
    average = Average(clip, 0.998)

    def loss(form: int) -> Tensor:
        chosen = torch.randint(len(images), (budget.batch,), device=device)
        logits = clip(
            input_ids=tokens[form, chosen].long(),
            attention_mask=mask[form, chosen].long(),
            pixel_values=normalise(images[chosen]),
        ).logits_per_image.float()
        own = torch.arange(len(logits), device=device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    losses = [partial(loss, form) for form in range(2)]
    train("clip", [clip], budget, losses, [average], weight_decay=0.05)
    return save(average.model.cpu(), prompts, folder)


@torch.no_grad()
def retrieval(
    folder: str | Path, array: Pictures, scenes: Sequence[Scene], among: int = 100
) -> float:
    """Share of the pictures whose own caption is the nearest of `among` captions.

    The pictures are taken in groups of `among`; what is left over is not used.
    """
    from transformers import CLIPModel, CLIPProcessor

    prompts = CLIPProcessor.from_pretrained(folder)
    clip = CLIPModel.from_pretrained(folder).eval()
    hits = []
    for first in range(0, len(scenes) - among + 1, among):
        texts = [caption(scene) for scene in scenes[first : first + among]]
        inputs = prompts(
            text=texts,
            images=list(array[first : first + among]),
            return_tensors="pt",
            padding="max_length",
            max_length=77,
            truncation=True,
        )
        nearest = clip(**inputs).logits_per_image.argmax(1)
        hits.append((nearest == torch.arange(among)).float().mean().item())
    return float(np.mean(hits))
