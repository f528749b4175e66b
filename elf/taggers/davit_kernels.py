"""Florence-2's vision tower on a CUDA device: Triton between the matrix products.

The same arithmetic as `florence_encoder`'s, with nothing copied: a window is a way to count the
positions, and what attention and feed-forward layers add, their last product adds by itself, to a
sum that has its bias already.

B: batch, C: channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from elf.taggers import florence_encoder
from elf.taggers.block_convolution import BlockConvolution
from elf.taggers.channel_kernels import can_mix, channel_mix
from elf.taggers.florence_encoder import add_mixed, channels_first, channels_last, spatial
from elf.taggers.gelu_kernels import gelu_product
from elf.taggers.picture_kernels import attend_within, mix_norm, norm


class Tower:
    """A vision tower.

    Args:
        tower: The model's.
        weights: Of the convolutions between its stages, channels last.
    """

    def __init__(self, tower: Any, weights: list[Tensor]) -> None:
        self._stages = list(zip(tower.convs, tower.blocks, weights, strict=True))
        first = tower.convs[0]
        self._first = None
        if BlockConvolution.is_possible(first.conv) and not first.pre_norm:
            self._first = BlockConvolution(first.conv)
        self._taps = {
            conv: _residual(conv)
            for blocks in tower.blocks
            for block in blocks
            for part in (block.spatial_block, block.channel_block)
            for conv in (part.conv1, part.conv2)
        }

    def __call__(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B C h w"]:
        """Return the features of pictures."""
        x = pixels
        for number, (stage, blocks, weight) in enumerate(self._stages):
            if stage.pre_norm:
                x = channels_first(norm(channels_last(x), stage.norm))
            bias = stage.conv.bias if stage.pre_norm else None
            if number == 0 and self._first is not None and self._first.fits(x):
                x = self._first(x)
            else:
                x = x.contiguous(memory_format=torch.channels_last)
                x = F.conv2d(x, weight, bias, stage.conv.stride, stage.conv.padding)
            x = channels_last(x)
            if not stage.pre_norm:
                x = norm(x, stage.norm, stage.conv.bias)
            for block in blocks:  # (B, height, width, C)
                x = self._channel(block.channel_block, self._spatial(block.spatial_block, x))
            x = channels_first(x)
        return x

    def _mix(self, x: Tensor, conv: Any, layer: Any, then: Any, *windows: int) -> Any:
        """Return the residual sum, with the bias of what is added next, and its norm."""
        return mix_norm(x, self._taps[conv], conv.bias, layer, then.bias, *windows)

    def _spatial(self, block: Any, x: Tensor) -> Tensor:
        attention = block.window_attn
        _, height, width, channels = x.shape
        side = attention.window_size
        if height % side or width % side:  # windows that need padding
            return spatial(block, x)
        x, y = self._mix(x, block.conv1, block.norm1, attention.proj, 0, side)
        qkv = attention.qkv(y.view(-1, side * side, channels))
        y = attend_within(qkv, attention.num_heads, attention.scale)
        _add_product(x, y, attention.proj)
        x, y = self._mix(x, block.conv2, block.norm2, block.ffn.fc2, side, 0)
        return self._feed(block.ffn, x, y)

    def _channel(self, block: Any, x: Tensor) -> Tensor:
        attention = block.channel_attn
        x, y = self._mix(x, block.conv1, block.norm1, attention.proj)
        qkv, groups = attention.qkv(y).flatten(1, 2), attention.groups
        mix = channel_mix if can_mix(y.shape[-1], groups) else florence_encoder.channel_mix
        add_mixed(x, qkv, mix(qkv, groups, attention.proj.weight))
        x, y = self._mix(x, block.conv2, block.norm2, block.ffn.fc2)
        return self._feed(block.ffn, x, y)

    @staticmethod
    def _feed(ffn: Any, x: Tensor, y: Tensor) -> Tensor:
        _add_product(x, gelu_product(y, ffn.fc1, ffn.activation_fn), ffn.fc2)
        return x


def _residual(conv: Any) -> Float[Tensor, "9 C"]:
    """Return the weights of x + conv(x), a depthwise convolution without its bias, in float32."""
    taps: Tensor = conv.weight.float().flatten(1).t().contiguous()
    taps[4] += 1
    return taps


def _add_product(x: Tensor, y: Tensor, project: torch.nn.Linear) -> None:
    """Add to x what a layer makes of y, without its bias."""
    x.view(-1, project.out_features).addmm_(y.view(-1, project.in_features), project.weight.t())
