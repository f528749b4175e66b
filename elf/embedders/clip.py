"""What turns pictures and texts into embeddings that can be compared."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from elf.pretrained import load, model_folder


class CLIPEmbedder:
    """A CLIP model (Radford et al. 2021) from a folder or a hub name.

    Raises:
        ElfError: If it is not there.
    """

    def __init__(self, name: str, device: torch.device, batch_size: int = 16) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        # processor and tokenizer: older models have a file for each part, newer ones fewer
        needed, optional = ("config.json", "model.safetensors"), ("*.json", "*.txt")
        folder = model_folder(name, "embedder", needed, optional)
        self.name = name
        self.device = device
        self.batch_size = batch_size
        self.model = load(CLIPModel.from_pretrained, folder, "embedder", use_safetensors=True)
        self.model.to(device).eval()
        self.processor = load(AutoImageProcessor.from_pretrained, folder, "embedder")
        self.tokenizer = load(AutoTokenizer.from_pretrained, folder, "embedder")

    @torch.inference_mode()
    def pictures(self, pictures: list[Image.Image]) -> Float[np.ndarray, "N D"]:
        """Return one embedding for each picture."""
        rows = []
        for start in range(0, len(pictures), self.batch_size):
            chosen = pictures[start : start + self.batch_size]
            pixels = self.processor(chosen, return_tensors="pt").pixel_values.to(self.device)
            rows.append(_array(self.model.get_image_features(pixel_values=pixels)))
        return np.concatenate(rows)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Float[np.ndarray, "N D"]:
        """Return one embedding for each text; texts are cut at the model's length."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        features = self.model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return _array(features)


def _array(features: Any) -> np.ndarray:
    # transformers 5 returns an output object, whose pooler_output is the projected embedding
    tensor = getattr(features, "pooler_output", features)
    array: np.ndarray = tensor.float().cpu().numpy()
    return array
