"""Triton kernels for DaViT's attention between channels (Ding et al. 2022, §3.1).

Scores are wanted between the channels of a group alone; PyTorch would have to copy queries and keys
not to compute them between all.

B: batch, C: channels, G: groups of D channels (C = G · D), P: positions, S: parts of a sum.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

POSITIONS, COLUMNS = 64, 128
"""Positions whose products are summed up at once, and output channels of a program."""

PROGRAMS = 512
"""With less, a device of some 130 multiprocessors is not busy: sums are then split."""


@triton.jit
@no_type_check
def _channel_scores(
    out, qkv, positions, channels, share, width: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    group, picture, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d = tl.arange(0, width)
    source = qkv + picture.to(tl.int64) * positions * 3 * channels + group * width + d[None, :]
    total = tl.zeros((width, width), tl.float32)
    for start in range(0, share, block):
        p = part * share + start + tl.arange(0, block)
        there = (p < positions)[:, None]
        place = source + p[:, None] * 3 * channels
        query = tl.load(place, mask=there, other=0)
        key = tl.load(place + channels, mask=there, other=0)
        total = tl.dot(tl.trans(query), key, total, input_precision="ieee")
    place = (part * tl.num_programs(1) + picture) * tl.num_programs(0) + group
    place = out + place * width * width
    tl.store(place + d[:, None] * width + d[None, :], total)


@triton.jit
@no_type_check
def _mix_weights(
    out, parts, weight, channels, scale,
    count: tl.constexpr, width: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    group, picture = tl.program_id(0), tl.program_id(1)
    c, d = tl.program_id(2) * columns + tl.arange(0, columns), tl.arange(0, width)
    inside = (c < channels)[None, :]
    scores = tl.zeros((width, width), tl.float32)
    for part in tl.static_range(count):
        place = (part * tl.num_programs(1) + picture) * tl.num_programs(0) + group
        place = parts + place * width * width
        scores += tl.load(place + d[:, None] * width + d[None, :])
    shares = tl.exp2((scores - tl.max(scores, 1)[:, None]) * scale)
    shares /= tl.sum(shares, 1)[:, None]  # from the values' channels, j, to the queries', i
    weights = tl.load(
        weight + c[None, :] * channels + group * width + d[:, None], mask=inside, other=0
    )
    mix = tl.dot(tl.trans(shares.to(weights.dtype)), weights, input_precision="ieee")
    row = picture.to(tl.int64) * channels + group * width + d
    place = out + row[:, None] * channels + c[None, :]
    tl.store(place, mix.to(out.dtype.element_ty), mask=inside)


def channel_mix(
    qkv: Float[Tensor, "B P 3C"], groups: int, weight: Float[Tensor, "C C"]
) -> Float[Tensor, "B C C"]:
    """Return what `florence_encoder.channel_mix` returns."""
    batch, positions, channels = *qkv.shape[:2], len(weight)
    width = channels // groups
    most = triton.cdiv(positions, POSITIONS)
    share = triton.cdiv(most, min(most, max(1, PROGRAMS // (batch * groups)))) * POSITIONS
    count = triton.cdiv(positions, share)
    parts = qkv.new_empty(count, batch, groups, width, width, dtype=torch.float32)
    _channel_scores[(groups, batch, count)](
        parts, qkv, positions, channels, share, width=width, block=POSITIONS, num_stages=4
    )
    out = qkv.new_empty(batch, channels, channels)
    _mix_weights[(groups, batch, triton.cdiv(channels, COLUMNS))](
        out, parts, weight, channels, math.log2(math.e) * positions**-0.5,
        count=count, width=width, columns=COLUMNS,
    )  # fmt: skip
    return out


def can_mix(channels: int, groups: int) -> bool:
    """Return whether `channel_mix` is made for groups of such a size."""
    width = channels // groups
    return 16 <= width <= 64 and width == triton.next_power_of_2(width)
