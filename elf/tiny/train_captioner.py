"""Trains the tiny captioner: teacher forcing on the sentence of each drawing."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elf.tiny.captioner import IMAGE_TOKENS, model, processor, save
from elf.tiny.data import EVERYTHING, Pictures, draw_splits, split_scenes, squashed
from elf.tiny.loop import Average, Budget, train
from elf.world.scene import Scene
from elf.world.words import caption, short_caption

TASKS = ("<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<CAPTION>")
"""The first two ask for every attribute, the last for one short sentence."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def gather(count: int, workers: int, cache: Path | None) -> tuple[Pictures, list[Scene]]:
    """`count` square pictures and a quarter as many of each other size, squashed to squares."""
    arrays = draw_splits(EVERYTHING, count, workers, cache)
    squares = np.concatenate([squashed(array) for array in arrays.values()])
    return squares, split_scenes(EVERYTHING, arrays)


def normaliser(device: str) -> Callable[[Tensor], Tensor]:
    """A function from bytes (batch, 64, 64, 3) to what CLIP's image processor would give.

    It dims a little and adds light noise, too: (batch, 3, 64, 64).
    """
    mean = torch.tensor(CLIP_MEAN, device=device)
    deviation = torch.tensor(CLIP_DEVIATION, device=device)

    def normalise(batch: Tensor) -> Tensor:
        pixels = batch.float() / 255
        shade = 1 + 0.06 * torch.randn(len(batch), 1, 1, 3, device=device)
        noise = 0.04 * torch.rand(len(batch), 1, 1, 1, device=device)
        pixels = (pixels * shade + noise * torch.randn_like(pixels)).clamp(0, 1)
        return ((pixels - mean) / deviation).permute(0, 3, 1, 2).contiguous()

    return normalise


def _labels(texts: Sequence[str], tokenizer: object) -> Tensor:
    ids: Tensor = tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]  # type: ignore[operator]
    return ids


def fit(
    folder: str | Path,
    budget: Budget,
    count: int = 10000,
    workers: int = 1,
    cache: Path | None = None,
) -> Path:
    """Train a captioner on `count` square pictures, half as many others, and write it."""
    torch.manual_seed(budget.seed)
    device = budget.device
    array, scenes = gather(count, workers, cache)
    images = torch.from_numpy(array).to(device)
    prompts = processor()
    tokenizer = prompts.tokenizer
    pad, start = tokenizer.pad_token_id, tokenizer.eos_token_id
    long = _labels([caption(scene) for scene in scenes], tokenizer).to(device)
    short = _labels([short_caption(scene) for scene in scenes], tokenizer).to(device)
    blank = np.zeros((64, 64, 3), dtype=np.uint8)
    questions = [
        prompts(text=task, images=blank, return_tensors="pt")["input_ids"].to(device)
        for task in TASKS
    ]
    captioner = model(prompts).to(device)
    embeddings, normalise = captioner.get_input_embeddings(), normaliser(device)
    average = Average(captioner, 0.998)

    def loss(task: int) -> Tensor:
        answers = short if task == 2 else long
        chosen = torch.randint(len(images), (budget.batch,), device=device)
        labels = answers[chosen]
        before = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], 1)
        # The model would look up where the image tokens are, which makes the GPU wait; the
        # processor puts them first.
        question = embeddings(questions[task][0, IMAGE_TOKENS:]).expand(budget.batch, -1, -1)
        seen = captioner.get_image_features(normalise(images[chosen])).pooler_output
        states = torch.cat([seen, question], 1)
        logits = captioner(inputs_embeds=states, decoder_input_ids=before).logits
        return F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=pad)

    losses = [partial(loss, task) for task in range(len(TASKS))]
    train("captioner", [captioner], budget, losses, [average], [0.5, 0.3, 0.2])
    return save(average.model.cpu(), prompts, folder)


@torch.no_grad()
def captions(
    folder: str | Path, array: Pictures, task: str = "<DETAILED_CAPTION>", batch: int = 64
) -> list[str]:
    """Captions by a stored captioner, decoded greedily through its own processor."""
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    prompts = AutoProcessor.from_pretrained(folder)
    captioner = Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    sentences: list[str] = []
    for first in range(0, len(array), batch):
        images = list(array[first : first + batch])
        inputs = prompts(text=[task] * len(images), images=images, return_tensors="pt")
        ids = captioner.generate(**inputs, max_new_tokens=64, do_sample=False, num_beams=1)
        sentences += prompts.batch_decode(ids, skip_special_tokens=True)
    return sentences
