"""DINOv2: how much two pictures show the same subject, whatever their captions would say."""

import json

import torch
from jaxtyping import Float
from torch import Tensor

from elf.embedders.interface import Kind, weights_folder
from elf.embedders.network import NetworkEmbedder, load_model
from elf.embedders.preprocessing import Preprocessing
from elf.errors import ElfError
from elf.pretrained import load

WHAT = "DINOv2 embedder"
SIZE = "facebook/dinov2-base (0.35 GB)"
TYPES = ("dinov2", "dinov2_with_registers")
"""The second has four more tokens that no embedding reads (Darcet et al. 2024)."""


class DinoEmbedder(NetworkEmbedder):
    """A DINOv2 model (Oquab et al. 2023) from a folder or a hub name.

    The embedding is the CLS token after the final layer norm. Training made that token alone the
    picture's descriptor; the model's nearest-neighbour evaluation compares it, and so does the DINO
    score of DreamBooth (Ruiz et al. 2023), so that figures are alike. The mean of the patches says
    more of layout and background, which is not asked.

    Raises:
        ElfError: If it is not there, damaged, or no DINOv2.
    """

    kind: Kind = "dino"

    def __init__(self, name: str, device: torch.device, batch_size: int = 16) -> None:
        from transformers import AutoImageProcessor, AutoModel

        needed = ("config.json", "model.safetensors", "preprocessor_config.json")
        folder = weights_folder(name, WHAT, needed, (), SIZE)
        _require_dinov2(name, (folder / "config.json").read_bytes())
        self.name = name
        self.device = device
        self.batch_size = batch_size
        self.files = (folder / needed[0], folder / needed[1])
        self.model = load_model(AutoModel.from_pretrained, folder, WHAT)
        self.model.to(device).eval()
        processor = load(AutoImageProcessor.from_pretrained, folder, WHAT)
        self.preprocessing = Preprocessing.of(processor, f"{WHAT}: {folder}")

    def _embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        tokens: Tensor = self.model(pixel_values=pixels).last_hidden_state  # (B, 1 + N, D), normed
        return tokens[:, 0]


def _require_dinov2(name: str, config: bytes) -> None:
    try:
        kind = json.loads(config)["model_type"]
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind not in TYPES:
        raise ElfError(
            f"{WHAT}: {name} is of type {kind!r} by its config.json, not {' or '.join(TYPES)}; "
            f"take a DINOv2 model, such as {SIZE}"
        )
