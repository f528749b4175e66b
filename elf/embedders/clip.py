"""CLIP: pictures and texts in one space, for CLIP-I and CLIP-T."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from elf.autocasting import without_autocast
from elf.embedders.interface import Kind, weights_folder
from elf.embedders.network import NetworkEmbedder, load_model
from elf.embedders.preprocessing import Preprocessing
from elf.pretrained import load

SIZE = "openai/clip-vit-large-patch14 (1.7 GB)"


class CLIPEmbedder(NetworkEmbedder):
    """A CLIP model (Radford et al. 2021) from a folder or a hub name.

    Raises:
        ElfError: If it is not there or damaged.
    """

    kind: Kind = "clip"

    def __init__(self, name: str, device: torch.device, batch_size: int = 16) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        # processor and tokenizer: older models have a file for each part, newer ones fewer
        needed, optional = ("config.json", "model.safetensors"), ("*.json", "*.txt")
        folder = weights_folder(name, "embedder", needed, optional, SIZE)
        self.name = name
        self.device = device
        self.batch_size = batch_size
        self.files = tuple(folder / file for file in needed)
        self.model = load_model(CLIPModel.from_pretrained, folder, "embedder")
        self.model.to(device).eval()
        processor = load(AutoImageProcessor.from_pretrained, folder, "embedder")
        self.preprocessing = Preprocessing.of(processor, f"embedder: {folder}")
        self.tokenizer = load(AutoTokenizer.from_pretrained, folder, "embedder")

    def _embed(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        return _projected(self.model.get_image_features(pixel_values=pixels))

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Float32[np.ndarray, "N D"]:
        """Return one embedding for each text; texts are cut at the model's length."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        with without_autocast(self.device):
            features = self.model.get_text_features(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            )
        array: np.ndarray = _projected(features).float().cpu().numpy()
        return array


def _projected(features: Any) -> Tensor:
    # transformers 5 returns an output object, whose pooler_output is the projected embedding
    tensor: Tensor = getattr(features, "pooler_output", features)
    return tensor
