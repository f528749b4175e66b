"""A VAE that stays in float32, whatever surrounds it."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from torch import Tensor

from elf.bases.strips import decode_in_strips
from elf.errors import ElfError

AT_ONCE = 4
"""Tensors of the picture's size, with the channels of the last but one block, that are alive while
a picture is decoded at once: three, and what a convolution works with."""


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

    def decode(self, z: Tensor, return_dict: bool = True, **options: Any) -> Any:
        """Decode unscaled latents (B, C, h, w) of any type; in strips if memory is short."""
        if not torch.isfinite(z).all():
            raise ElfError(
                "a sampled picture's latents are not finite (NaN or infinite): the base or the "
                "adapter overflows; sample in bfloat16 or float32"
            )
        with torch.autocast(z.device.type, enabled=False):
            decoded = self._decoded(z.float())
        if not torch.isfinite(decoded).all():
            raise ElfError(
                "a sampled picture is not finite (NaN or infinite): the VAE is damaged, or the "
                "latents are far out of its range"
            )
        return DecoderOutput(sample=decoded) if return_dict else (decoded,)

    def _decoded(self, latents: Tensor) -> Tensor:
        if self._fits(latents):
            try:
                whole: Tensor = super().decode(latents).sample
                return whole
            except torch.OutOfMemoryError:
                if not self._knows_strips():
                    raise
        # Not in the handler, whose traceback holds on to the activations.
        if latents.is_cuda:
            torch.cuda.empty_cache()
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        pictures = torch.split(latents, 1)
        return torch.cat([decode_in_strips(self.decoder, each) for each in pictures])

    def _fits(self, latents: Tensor) -> bool:
        """Return whether the card seems to have the memory to decode at once.

        To try costs nothing where torch says that there is none, but some drivers would rather
        spill into the computer's memory.
        """
        if not latents.is_cuda or not self._knows_strips():
            return True
        pictures = 1 if self.use_slicing else len(latents)
        free, _ = torch.cuda.mem_get_info(latents.device)
        own = torch.cuda.memory_reserved(latents.device)
        own -= torch.cuda.memory_allocated(latents.device)
        return pictures * self._bytes_at_once(*latents.shape[-2:]) <= free + own

    def _bytes_at_once(self, height: int, width: int) -> int:
        widths = self.config.block_out_channels
        scale = 2 ** (len(widths) - 1)
        values: int = widths[min(1, len(widths) - 1)] * scale * height * scale * width
        return 4 * AT_ONCE * values

    def _knows_strips(self) -> bool:
        return all(type(each) is UpDecoderBlock2D for each in self.decoder.up_blocks)
