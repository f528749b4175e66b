"""Florence-2's vision tower on a CUDA device: Triton between the matrix products.

The same arithmetic as `florence_encoder`'s, with nothing copied: a window is a way to count the
positions, and what attention and feed-forward layers add, their last product adds by itself. A bias
that is left waits for the kernel that reads its sum next.

B: batch, C: channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from elf.taggers.florence_encoder import channel_mix, channels_first, channels_last, spatial
from elf.taggers.picture_kernels import attend_within, mix_norm, norm

Pending = Tensor | None
"""A bias (C,) that is still to be added."""


class Tower:
    """A vision tower.

    Args:
        tower: The model's.
        weights: Of the convolutions between its stages, channels last.
    """

    def __init__(self, tower: Any, weights: list[Tensor]) -> None:
        self._stages = list(zip(tower.convs, tower.blocks, weights, strict=True))
        self._taps = {
            conv: conv.weight.flatten(1).t().contiguous()  # (9, C)
            for blocks in tower.blocks
            for block in blocks
            for part in (block.spatial_block, block.channel_block)
            for conv in (part.conv1, part.conv2)
        }

    def __call__(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B C h w"]:
        """Return the features of pictures."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        pending: Pending = None
        for stage, blocks, weight in self._stages:
            if stage.pre_norm:
                x, pending = channels_first(norm(channels_last(x), stage.norm, pending)), None
            x = F.conv2d(x, weight, None, stage.conv.stride, stage.conv.padding)
            x, pending = channels_last(x), stage.conv.bias  # (B, height, width, C)
            if not stage.pre_norm:
                x, pending = norm(x, stage.norm, pending), None
            for block in blocks:
                x, pending = self._spatial(block.spatial_block, x, pending)
                x, pending = self._channel(block.channel_block, x, pending)
            x = channels_first(x)
        return x if pending is None else x.add_(pending.view(-1, 1, 1))

    def _mix(self, x: Tensor, conv: Any, layer: Any, pending: Pending, *windows: int) -> Any:
        return mix_norm(x, self._taps[conv], conv.bias, layer, pending, *windows)

    def _spatial(self, block: Any, x: Tensor, pending: Pending) -> tuple[Tensor, Pending]:
        attention = block.window_attn
        _, height, width, channels = x.shape
        side = attention.window_size
        if height % side or width % side:  # windows that need padding
            return spatial(block, x if pending is None else x.add_(pending)), None
        x, y = self._mix(x, block.conv1, block.norm1, pending, 0, side)
        qkv = attention.qkv(y.view(-1, side * side, channels))
        y = attend_within(qkv, attention.num_heads, attention.scale)
        _add_product(x, y, attention.proj)
        x, y = self._mix(x, block.conv2, block.norm2, attention.proj.bias, side, 0)
        return self._feed(block.ffn, x, y)

    def _channel(self, block: Any, x: Tensor, pending: Pending) -> tuple[Tensor, Pending]:
        x, y = self._mix(x, block.conv1, block.norm1, pending)
        value, mix = channel_mix(block.channel_attn, y)
        x.view(value.shape).baddbmm_(value, mix)
        x, y = self._mix(x, block.conv2, block.norm2, block.channel_attn.proj.bias)
        return self._feed(block.ffn, x, y)

    @staticmethod
    def _feed(ffn: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Pending]:
        _add_product(x, ffn.activation_fn(ffn.fc1(y)), ffn.fc2)
        return x, ffn.fc2.bias


def _add_product(x: Tensor, y: Tensor, project: torch.nn.Linear) -> None:
    """Add to x what a layer makes of y, without its bias."""
    x.view(-1, project.out_features).addmm_(y.view(-1, project.in_features), project.weight.t())
