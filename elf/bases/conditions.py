"""What SDXL's denoiser is told beside the text: sizes and crop."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def added_time_ids(
    original_size: Int[Tensor, "B 2"], crop: Int[Tensor, "B 2"], size: Int[Tensor, "B 2"]
) -> Float[Tensor, "B 6"]:
    """Return the numbers of SDXL's micro-conditioning (Podell et al. 2023, section 2.2).

    In float32: float16 has no odd numbers beyond 2048, and pictures have such sides.

    Args:
        original_size: Height and width of the picture before it was resized, px.
        crop: What was cut off at the top and at the left, px.
        size: Height and width in training, px.

    Returns:
        In the order that diffusers' pipeline uses: original size, crop, size.
    """
    return torch.cat([original_size, crop, size], dim=1).float()
