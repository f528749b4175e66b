"""Triton kernels for what stands between DaViT's matrix products (Ding et al. 2022, §3).

A depthwise convolution, its bias, the residual sum and the layer norm after it are five passes over
the pictures in PyTorch; here each number is read once from memory and written twice. The pictures'
positions may lie row by row or window by window, before and after, so that no window is copied.
Attention within windows of 12 × 12 fills less than a third of the tiles of PyTorch's kernel.

B: batch, C: channels, W: windows, L: positions of a window, H: heads.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

TILE = 2048
"""Numbers that one program computes; at least two positions."""

ROWS = 64
"""Positions of a window that one product takes."""


@triton.jit
@no_type_check
def _place(row, column, width, window: tl.constexpr):
    """Return where a position lies in its picture; window by window if they have a side."""
    if window:
        first = (row // window * (width // window) + column // window) * (window * window)
        place = first + row % window * window + column % window
    else:
        place = row * width + column
    return place


@triton.jit
@no_type_check
def _store_normed(out, at, value, weight, offset, c, real, inside, channels, eps):
    """Store the layer norm (Ba et al. 2016, arXiv:1607.06450) of rows in float32."""
    centred = tl.where(inside, value - (tl.sum(value, 1) / channels)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / channels + eps)
    result = centred * scale[:, None]
    result *= tl.load(weight + c, mask=real, other=0).to(tl.float32)[None, :]
    result += tl.load(offset + c, mask=real, other=0).to(tl.float32)[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _mix_norm(
    summed, normed, x, pending, matrix, bias, weight, offset, height, width, channels, eps,
    has_pending: tl.constexpr, window_before: tl.constexpr, window_after: tl.constexpr,
    columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    picture = tl.program_id(2).to(tl.int64) * height * width
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    c = tl.arange(0, block)
    real = c < channels
    inside = (column < width)[:, None] & real[None, :]
    total = tl.zeros((columns, block), tl.float32)
    if has_pending:
        more = tl.load(pending + c, mask=real, other=0).to(tl.float32)
    for tap in tl.static_range(9):
        above, left = row + tap // 3 - 1, column + tap % 3 - 1
        there = (above >= 0) & (above < height) & (left >= 0) & (left < width)
        there = there[:, None] & real[None, :]
        place = picture + _place(above, left, width, window_before)
        value = tl.load(x + place[:, None] * channels + c[None, :], mask=there, other=0)
        value = value.to(tl.float32)
        if has_pending:
            value = tl.where(there, value + more[None, :], 0.0)
        gain = tl.load(matrix + tap * channels + c, mask=real, other=0).to(tl.float32)
        if tap == 4:
            gain += 1  # the residual
        total += value * gain[None, :]
    total += tl.load(bias + c, mask=real, other=0).to(tl.float32)[None, :]
    rounded = total.to(summed.dtype.element_ty)
    place = picture + _place(row, column, width, window_after)
    at = place[:, None] * channels + c[None, :]
    tl.store(summed + at, rounded, mask=inside)
    value = rounded.to(tl.float32)
    _store_normed(normed, at, value, weight, offset, c, real, inside, channels, eps)


@triton.jit
@no_type_check
def _norm(
    out, x, pending, weight, offset, count, channels, eps,
    has_pending: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, c = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows), tl.arange(0, block)
    real = c < channels
    inside = (row < count)[:, None] & real[None, :]
    at = row[:, None] * channels + c[None, :]
    value = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if has_pending:
        value += tl.load(pending + c, mask=real, other=0).to(tl.float32)[None, :]
    _store_normed(out, at, value, weight, offset, c, real, inside, channels, eps)


@triton.jit
@no_type_check
def _attend_within(
    out, qkv, length, channels, width, scale,
    whole: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    head, window = tl.program_id(0), tl.program_id(1).to(tl.int64)
    d, r = tl.arange(0, columns), tl.arange(0, rows)
    inside = (d < width)[None, :]
    source = qkv + window * length * 3 * channels + head * width + d[None, :]
    for first in tl.static_range(0, whole, rows):
        at = first + r
        query = tl.load(source + at[:, None] * 3 * channels, mask=(at < length)[:, None] & inside,
                        other=0)  # fmt: skip
        most = tl.full((rows,), float("-inf"), tl.float32)
        total = tl.zeros((rows,), tl.float32)
        context = tl.zeros((rows, columns), tl.float32)
        for start in tl.static_range(0, whole, rows):
            to = start + r
            places = source + channels + to[:, None] * 3 * channels
            there = (to < length)[:, None] & inside
            key = tl.load(places, mask=there, other=0)
            value = tl.load(places + channels, mask=there, other=0)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
            scores = tl.where((to < length)[None, :], scores, float("-inf"))
            higher = tl.maximum(most, tl.max(scores, 1))
            shares = tl.exp2(scores - higher[:, None])
            decay = tl.exp2(most - higher)
            total = total * decay + tl.sum(shares, 1)
            context = context * decay[:, None]
            context += tl.dot(shares.to(value.dtype), value, input_precision="ieee")
            most = higher
        place = out + (window * length + at[:, None]) * channels + head * width + d[None, :]
        result = (context / total[:, None]).to(out.dtype.element_ty)
        tl.store(place, result, mask=(at < length)[:, None] & inside)


def mix_norm(
    x: Float[Tensor, "B height width C"],
    taps: Float[Tensor, "9 C"],
    bias: Float[Tensor, " C"],
    norm: torch.nn.LayerNorm,
    pending: Float[Tensor, " C"] | None = None,
    window_before: int = 0,
    window_after: int = 0,
) -> tuple[Float[Tensor, "B height width C"], Float[Tensor, "B height width C"]]:
    """Return x + conv(x), and the layer norm of that.

    Args:
        x: Contiguous.
        taps: The weights of a depthwise 3 × 3 convolution, padded with zeros.
        bias: Of the convolution.
        norm: The layer norm.
        pending: Added to x before anything else.
        window_before: Side of the windows by which x lies in memory, in positions; 0 for rows.
        window_after: The same of what is returned.
    """
    batch, height, width, channels = x.shape
    block = triton.next_power_of_2(channels)
    columns = max(2, min(TILE // block, triton.next_power_of_2(width)))
    summed, normed = torch.empty_like(x), torch.empty_like(x)
    _mix_norm[(triton.cdiv(width, columns), height, batch)](
        summed, normed, x, pending, taps, bias, norm.weight, norm.bias, height, width, channels,
        norm.eps, has_pending=pending is not None, window_before=window_before,
        window_after=window_after, columns=columns, block=block,
        num_warps=4 if block <= 1024 else 8,
    )  # fmt: skip
    return summed, normed


def norm(
    x: Float[Tensor, "*batch C"], layer: torch.nn.LayerNorm, pending: Tensor | None = None
) -> Float[Tensor, "*batch C"]:
    """Return the layer norm of x, to which ``pending`` (C,) is added before; x is contiguous."""
    channels = x.shape[-1]
    count, block = x.numel() // channels, triton.next_power_of_2(channels)
    rows, out = max(1, TILE // block), torch.empty_like(x)
    _norm[(triton.cdiv(count, rows),)](
        out, x, pending, layer.weight, layer.bias, count, channels, layer.eps,
        has_pending=pending is not None, rows=rows, block=block,
    )  # fmt: skip
    return out


def attend_within(qkv: Float[Tensor, "W L 3C"], heads: int, scale: float) -> Float[Tensor, "W L C"]:
    """Return what each position reads in its window: softmax(Q Kᵀ · scale) V, for each head."""
    windows, length, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    width = channels // heads
    out = qkv.new_empty(windows, length, channels)
    _attend_within[(heads, windows)](
        out, qkv, length, channels, width, scale * math.log2(math.e),
        whole=triton.cdiv(length, ROWS) * ROWS, rows=ROWS,
        columns=max(16, triton.next_power_of_2(width)),
    )  # fmt: skip
    return out
