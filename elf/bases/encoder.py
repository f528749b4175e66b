"""The frozen models that run once, before training: pictures and captions in, caches out."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from elf.bases.text import count_cut, encode_text

if TYPE_CHECKING:
    from elf.bases.base import Base


class LatentEncoder:
    """The VAE's encoder and the text encoders of a base, in float32.

    Args:
        base: Where they come from.
        device: Where they run.
    """

    def __init__(self, base: "Base", device: torch.device) -> None:
        # B, C, h, w: latents; N: tokens (77 for each chunk); D: width of the text states
        self.base = base
        self.device = device
        self.caption_tokens = base.caption_tokens
        self.vae = base.vae().to(device)
        self.latent_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        names = base.text_encoder_names
        self.tokenizers = {name: base.tokenizer(name) for name in names}
        self.text_encoders = {
            name: base.text_encoder(name, torch.float32).to(device).eval() for name in names
        }

    def fingerprints(self) -> dict[str, str]:
        """Return hashes of all that decides the outputs: ``vae`` and ``text``."""
        return self.base.encoder_fingerprints()

    @torch.inference_mode()
    def encode_pictures(
        self, pixels: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Return mean and standard deviation of the scaled latents of pictures in −1..1."""
        posterior = self.vae.encode(pixels.to(self.device)).latent_dist
        scale = self.vae.config.scaling_factor
        shift = self.vae.config.shift_factor or 0.0
        return (posterior.mean - shift) * scale, posterior.std * scale

    @torch.inference_mode()
    def encode_captions(self, captions: list[str]) -> dict[str, Float[Tensor, "B ..."]]:
        """Return ``text`` (B, N, D) and, for SDXL, ``pooled`` (B, P), in float32.

        Captions are cut at ``caption_tokens``.
        """
        models = (self.base.family, self.tokenizers, self.text_encoders)
        states = encode_text(*models, captions, self.device, self.caption_tokens)
        return {name: state.float() for name, state in states.items()}

    def count_cut(self, captions: list[str]) -> int:
        """Return how many captions are longer than ``caption_tokens``."""
        return count_cut(self.tokenizers, captions, self.caption_tokens)
