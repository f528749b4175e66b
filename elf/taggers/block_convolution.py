"""A convolution of few channels with a stride, as one of many channels without.

cuDNN has no fast kernel for 3 channels. Blocks of s × s pixels, s being the stride, are pixels of
3 s² channels, and a kernel that reaches into one more block, above and to the left, is one of 2 × 2
over them, with zeros at its margin.

B: batch, C: channels in, D: channels out.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class BlockConvolution:
    """What a convolution gives without its bias, in memory as channels last.

    Args:
        conv: A convolution for which `is_possible` holds.
    """

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        self._stride = conv.stride[0]
        margin = 2 * self._stride - conv.kernel_size[0]
        weight = F.pad(conv.weight, (margin, 0, margin, 0))  # (D, C, 2s, 2s)
        weight = F.pixel_unshuffle(weight, self._stride)  # (D, C s², 2, 2)
        self._weight = weight.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def is_possible(conv: torch.nn.Conv2d) -> bool:
        """Whether a kernel reaches from a block into the one before it, and into no other."""
        (side, *sides), (stride, *strides) = conv.kernel_size, conv.stride
        square = (side, stride) == (sides[0], strides[0]) and conv.padding == (side - stride,) * 2
        plain = conv.groups == 1 == max(conv.dilation) and conv.padding_mode == "zeros"
        return square and plain and stride < side < 2 * stride

    def fits(self, pixels: Tensor) -> bool:
        """Whether pictures are made of whole blocks."""
        return not any(length % self._stride for length in pixels.shape[2:])

    def __call__(self, pixels: Float[Tensor, "B C height width"]) -> Float[Tensor, "B D h w"]:
        """Return the convolution of pictures that fit, however they lie in memory."""
        side = self._stride
        batch, channels, height, width = pixels.shape
        high, wide = height // side, width // side
        blocks = pixels.new_zeros(batch, high + 1, wide + 1, channels * side**2)
        inner = blocks[:, 1:, 1:].view(batch, high, wide, channels, side, side)
        parts = pixels.view(batch, channels, high, side, wide, side)
        inner.copy_(parts.permute(0, 2, 4, 1, 3, 5))
        return F.conv2d(blocks.permute(0, 3, 1, 2), self._weight)
