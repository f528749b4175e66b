"""Trains the tiny tagger on drawings: binary cross-entropy over all tags."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from elf.tiny.data import EVERYTHING, Pictures, Split, draw_splits, padded, split_scenes
from elf.tiny.loop import Average, Budget, train
from elf.tiny.tagger import Tagger, save, tag_rows
from elf.world.scene import Scene
from elf.world.words import characters, rating, tags

Targets = Float32[np.ndarray, "pictures tags"]


def targets(scenes: Sequence[Scene]) -> Targets:
    """1 for each true tag of each scene, in the order of `tag_rows`."""
    column = {name: number for number, (name, _) in enumerate(tag_rows())}
    truth = np.zeros((len(scenes), len(column)), dtype=np.float32)
    for row, scene in enumerate(scenes):
        for tag in (rating(scene), *tags(scene), *characters(scene)):
            truth[row, column[tag]] = 1
    return truth


def gather(
    split: Split, count: int, workers: int = 1, cache: Path | None = None
) -> tuple[Pictures, list[Scene]]:
    """`count` square pictures and a quarter as many of each other size, padded to squares."""
    arrays = draw_splits(split, count, workers, cache)
    squares = np.concatenate([padded(array) for array in arrays.values()])
    return squares, split_scenes(split, arrays)


def augment(batch: UInt8[Tensor, "batch 64 64 3"]) -> Float32[Tensor, "batch 64 64 3"]:
    """Shift, scale, mirror, blur, dim and add noise, so that paintings by a model are read too."""
    count, device = len(batch), batch.device
    pixels = batch.permute(0, 3, 1, 2).float()
    turn = torch.zeros(count, 2, 3, device=device)
    zoom = 1 + 0.12 * torch.randn(count, device=device).clamp(-1.5, 1.5)
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    turn[:, 0, 0], turn[:, 1, 1] = zoom * mirror, zoom
    turn[:, :, 2] = 0.06 * torch.randn(count, 2, device=device)
    grid = F.affine_grid(turn, list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels - 255, grid, align_corners=False) + 255
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(count, 1, 1, 1, device=device) * 0.7
    pixels = pixels + (soft - pixels) * share
    pixels = pixels * (1 + 0.08 * torch.randn(count, 3, 1, 1, device=device))
    noise = 14 * torch.rand(count, 1, 1, 1, device=device)
    pixels = pixels + noise * torch.randn_like(pixels)
    return pixels.clamp(0, 255).permute(0, 2, 3, 1)


def fit(
    folder: str | Path,
    budget: Budget,
    count: int = 10000,
    workers: int = 1,
    cache: Path | None = None,
) -> Path:
    """Train a tagger on `count` square pictures, half as many others, and write it."""
    torch.manual_seed(budget.seed)
    array, scenes = gather(EVERYTHING, count, workers, cache)
    truth = targets(scenes)
    # WD's channel order is BGR.
    images = torch.from_numpy(np.ascontiguousarray(array[..., ::-1])).to(budget.device)
    labels = torch.from_numpy(truth).to(budget.device)
    tagger = Tagger().to(budget.device)
    average = Average(tagger, 0.998)

    def loss() -> Tensor:
        chosen = torch.randint(len(images), (budget.batch,), device=budget.device)
        logits = tagger(augment(images[chosen]))
        return F.binary_cross_entropy_with_logits(logits.float(), labels[chosen]) * 10

    train("tagger", [tagger], budget, [loss], [average])
    tagger.load_state_dict(average.model.state_dict())
    return save(tagger.cpu(), folder, truth.sum(0).astype(int).tolist())
