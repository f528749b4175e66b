"""A VAE that stays in float32, whatever surrounds it."""

import warnings
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from elf.errors import ElfError

TILE = 512
"""Side of a part of a picture, px, where the whole does not fit the memory."""


class Float32VAE(AutoencoderKL):  # type: ignore[misc]
    """diffusers' ``AutoencoderKL``, run in float32 under autocast too.

    SDXL's overflows in float16, and its pictures are black then. diffusers upcasts it for as long
    as a picture takes, in a way that it deprecates; autocast would undo even that.

    Raises:
        ElfError: If latents to decode are not finite, or become a picture that is not.
    """

    def encode(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """Encode pixels (B, 3, H, W) in −1..1 of any type."""
        with torch.autocast(x.device.type, enabled=False):
            return super().encode(x.float(), *args, **options)

    def decode(self, z: Tensor, *args: Any, **options: Any) -> Any:
        """Decode unscaled latents (B, C, h, w) of any type; in tiles if they need more memory."""
        if not torch.isfinite(z).all():
            raise ElfError(
                "a sampled picture's latents are not finite (NaN or infinite): the base or the "
                "adapter overflows; sample in bfloat16 or float32"
            )
        with torch.autocast(z.device.type, enabled=False):
            decoded = None
            try:
                decoded = super().decode(z.float(), *args, **options)
            except torch.OutOfMemoryError:
                if self.use_tiling:
                    raise
            if decoded is None:  # not in the handler, whose traceback holds on to the activations
                self._decode_in_tiles_from_now_on()
                decoded = super().decode(z.float(), *args, **options)
        if not torch.isfinite(decoded[0]).all():
            raise ElfError(
                "a sampled picture is not finite (NaN or infinite): the VAE is damaged, or the "
                "latents are far out of its range"
            )
        return decoded

    def _decode_in_tiles_from_now_on(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.enable_tiling()
        self.tile_sample_min_size = TILE
        self.tile_latent_min_size = TILE // 2 ** (len(self.config.block_out_channels) - 1)
        warnings.warn(
            f"the GPU has no memory left to decode a picture at once: it is decoded in tiles of "
            f"{TILE} px, whose borders may show",
            stacklevel=4,
        )
