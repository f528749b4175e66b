"""A VAE that stays in float32, whatever surrounds it."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from elf.errors import ElfError


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
        """Decode unscaled latents (B, C, h, w) of any type."""
        if not torch.isfinite(z).all():
            raise ElfError(
                "a sampled picture's latents are not finite (NaN or infinite): the base or the "
                "adapter overflows; sample in bfloat16 or float32"
            )
        with torch.autocast(z.device.type, enabled=False):
            decoded = super().decode(z.float(), *args, **options)
        if not torch.isfinite(decoded[0]).all():
            raise ElfError(
                "a sampled picture is not finite (NaN or infinite): the VAE is damaged, or the "
                "latents are far out of its range"
            )
        return decoded
