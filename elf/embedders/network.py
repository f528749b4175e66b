"""What CLIP, DINOv2 and SSCD have in common: a torch network over preprocessed pictures."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor

from elf.autocasting import without_autocast
from elf.embedders.interface import Kind, fingerprint, require_finite
from elf.embedders.preprocessing import Preprocessing
from elf.errors import ElfError
from elf.pretrained import load, quiet_libraries


class NetworkEmbedder(ABC):
    """Runs a network in float32, whatever precision the pictures were generated in.

    Attributes:
        preprocessing: From a picture to the network's input.
        files: What the fingerprint covers: weights and the network's config.
    """

    kind: Kind
    name: str
    device: torch.device
    batch_size: int
    preprocessing: Preprocessing
    files: tuple[Path, ...]

    @abstractmethod
    def _embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the network's embeddings."""

    @cached_property
    def fingerprint(self) -> str:
        """What the embeddings were made with; the files are read once."""
        return fingerprint(self.kind, self.files, asdict(self.preprocessing))

    @torch.inference_mode()
    def pictures(
        self, pictures: list[Image.Image], names: Sequence[str] = ()
    ) -> Float32[np.ndarray, "N D"]:
        """Return one embedding for each picture.

        Raises:
            ElfError: If an embedding is not finite.
        """
        rows: list[np.ndarray] = []
        done = 0
        for start in range(0, len(pictures), self.batch_size):
            inputs = map(self.preprocessing, pictures[start : start + self.batch_size])
            for pixels in _of_one_size(inputs):
                with without_autocast(self.device):
                    features = self._embed(torch.from_numpy(pixels).to(self.device))
                rows.append(features.float().cpu().numpy())
                require_finite(rows[-1], f"{self.kind} embedder {self.name}", names, done)
                done += len(pixels)
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


def _of_one_size(inputs: Iterator[np.ndarray]) -> Iterator[Float32[np.ndarray, "batch 3 h w"]]:
    """Yield successive inputs of one size together: padding would change an embedding."""
    for _, group in groupby(inputs, lambda pixels: pixels.shape):
        yield np.stack(list(group))


def load_model(loader: Any, folder: Path, what: str) -> Any:
    """Return a transformers model in float32 from its safetensors file, every weight from there.

    Raises:
        ElfError: If the files do not fit, or lack weights, which would be drawn at random.
    """
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    with quiet_libraries():
        model, found = load(loader, folder, what, **options)
    lacking = sorted([*found["missing_keys"], *(item[0] for item in found["mismatched_keys"])])
    if lacking:
        raise ElfError(
            f"{what}: {folder / 'model.safetensors'} lacks {len(lacking)} weights of the network "
            f"in config.json ({lacking[0]}); fetch both files again from where the model is"
        )
    return model
