"""A VAE's decoder in horizontal strips: the picture of the whole, in half the memory or less.

Convolutions see a strip's neighbouring rows, and norms the mean and variance of the whole, so there
are no borders, as there are between tiles that are decoded each by itself. What is as large as the
picture and has many channels, the enlarged input of a block, is not kept but made again, strip by
strip, by whoever reads it.

Shapes: B pictures, C channels, H rows, W columns.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

ROWS = 32
"""Of a strip."""


class _Rows(NamedTuple):
    """What has so many rows, and gives those from one to before another, (B, C, h, W)."""

    height: int
    read: Callable[[int, int], Tensor]


@torch.no_grad()  # what is kept is written over
def decode_in_strips(decoder: Any, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    """Return what diffusers' ``Decoder`` returns, up to rounding.

    Args:
        decoder: Of an ``AutoencoderKL`` whose blocks are ``UpDecoderBlock2D``.
        latents: Its input.
    """
    # before it is enlarged, the picture is small
    state = _kept(decoder.mid_block(decoder.conv_in(latents), None))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            state = _resnet(state, resnet)
        for upsampler in block.upsamplers or ():
            state = _convolved(_doubled(state), upsampler.conv)
    return _whole(_convolved(_activated(state, decoder.conv_norm_out), decoder.conv_out))


def _kept(tensor: Tensor) -> _Rows:
    return _Rows(tensor.shape[2], lambda first, last: tensor[:, :, first:last])


def _strips(rows: _Rows) -> Iterator[tuple[int, int]]:
    for first in range(0, rows.height, ROWS):
        yield first, min(first + ROWS, rows.height)


def _whole(rows: _Rows) -> Tensor:
    found: Tensor | None = None
    for first, last in _strips(rows):
        strip = rows.read(first, last)
        if found is None:
            found = strip.new_empty((*strip.shape[:2], rows.height, strip.shape[3]))
        found[:, :, first:last] = strip
    assert found is not None, "it has rows"
    return found


def _resnet(inputs: _Rows, block: Any) -> _Rows:
    """Return a block's output, which takes the memory of what is within the block."""
    hidden = _whole(_convolved(_activated(inputs, block.norm1), block.conv1))
    around = int(block.conv2.padding[0])
    above = hidden[:, :, :0]  # rows as they were, of those that are written over

    def read(first: int, last: int) -> Tensor:
        return torch.cat([above, hidden[:, :, first + above.shape[2] : last]], dim=2)

    changed = _convolved(_activated(_Rows(inputs.height, read), block.norm2), block.conv2)
    shortcut = inputs if block.conv_shortcut is None else _convolved(inputs, block.conv_shortcut)
    for first, last in _strips(changed):
        both = changed.read(first, last).add_(shortcut.read(first, last))
        above = hidden[:, :, max(last - around, 0) : last].clone()
        hidden[:, :, first:last] = both.div_(block.output_scale_factor)
    return _kept(hidden)


def _convolved(inputs: _Rows, layer: nn.Conv2d) -> _Rows:
    around = int(layer.padding[0])

    def read(first: int, last: int) -> Tensor:
        top, bottom = max(first - around, 0), min(last + around, inputs.height)
        missing = (0, 0, top - (first - around), last + around - bottom)  # beyond the picture
        strip = functional.pad(inputs.read(top, bottom), missing)
        return functional.conv2d(strip, layer.weight, layer.bias, padding=(0, around))

    return _Rows(inputs.height, read)


def _doubled(inputs: _Rows) -> _Rows:
    def read(first: int, last: int) -> Tensor:
        start = first // 2
        strip = inputs.read(start, -(-last // 2))
        strip = functional.interpolate(strip, scale_factor=2.0, mode="nearest")
        return strip[:, :, first - 2 * start : last - 2 * start]

    return _Rows(2 * inputs.height, read)


def _activated(inputs: _Rows, norm: nn.GroupNorm) -> _Rows:
    """Return SiLU of the group norm."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for first, last in _strips(inputs):
        strip = inputs.read(first, last)
        grouped = strip.reshape(strip.shape[0], norm.num_groups, -1)  # (B, groups, values)
        variance, mean = (each.double() for each in torch.var_mean(grouped, dim=-1, correction=0))
        number = grouped.shape[-1]
        count += number
        total = number * mean + total.to(mean)
        squares = number * (variance + mean**2) + squares.to(mean)
    mean = total / count
    deviation = (squares / count - mean**2 + norm.eps).sqrt()
    each = norm.num_channels // norm.num_groups
    factor = (1 / deviation).float().repeat_interleave(each, dim=1) * norm.weight  # (B, C)
    shift = norm.bias - mean.float().repeat_interleave(each, dim=1) * factor

    def read(first: int, last: int) -> Tensor:
        strip = torch.addcmul(
            shift[:, :, None, None], inputs.read(first, last), factor[:, :, None, None]
        )
        return functional.silu(strip, inplace=True)

    return _Rows(inputs.height, read)
