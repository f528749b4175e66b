"""The frozen models that run once, before training: pictures and captions in, caches out."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from elf.bases.text import count_cut, encode_text
from elf.errors import ElfError

if TYPE_CHECKING:
    from elf.bases.base import Base


AT_ONCE = 6
"""Tensors of a picture's size, with the channels of the first block, that are alive while it is
encoded: five, and what a convolution works with."""


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
        self._at_once = 1 << 30  # pictures, as far as memory is known to suffice
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
        """Return mean and standard deviation of the scaled latents of pictures in −1..1.

        As many at a time as the memory holds: at 1024² each takes 2.5 GiB.

        Raises:
            ElfError: If it does not hold one.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        start = 0
        while start < len(pixels):
            height, width = pixels.shape[-2:]
            part = pixels[start : start + min(self._at_once, self._fitting(height * width))]
            latents = self._try(part)
            if latents is not None:
                parts.append(latents)
                start += len(part)
            elif len(part) == 1:
                raise ElfError(
                    f"{self.device} has no memory for the VAE to encode a picture of {width}×"
                    f"{height} px: free some, or take the CPU (--trainer.accelerator cpu)"
                )
            else:
                self._at_once = len(part) // 2
        means, deviations = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(deviations)

    def _try(self, pixels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation; None if memory ran out."""
        scale = self.vae.config.scaling_factor
        shift = self.vae.config.shift_factor or 0.0
        try:
            posterior = self.vae.encode(pixels.to(self.device)).latent_dist
            return (posterior.mean - shift) * scale, posterior.std * scale
        except torch.OutOfMemoryError:
            pass  # with the error goes the traceback, which holds on to the activations
        torch.cuda.empty_cache()
        return None

    def _fitting(self, area: int) -> int:
        """Return how many pictures of an area, px, the card seems to have the memory for.

        To try would do, but some drivers would rather spill into the computer's memory.
        """
        if self.device.type != "cuda":
            return self._at_once
        each: int = 4 * AT_ONCE * self.vae.config.block_out_channels[0] * area
        free, _ = torch.cuda.mem_get_info(self.device)
        own = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return max(1, (free + own) // each)

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
