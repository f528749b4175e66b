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

from elf.taggers.launching import fetches_tiles

TILE = 2048
"""Numbers that one program of `norm` computes."""

STRIP = 2
"""Rows of a picture that one program goes through; their neighbours are read once."""

THREAD = 16
"""Numbers of a row that one of its threads computes."""

QUERIES = 64
"""Positions of a window whose attention a program computes at once."""

REGISTERS = 128
"""Of a thread of it, from Hopper on: a third more programs than by the compiler's choice, and 8 %
faster. Before Hopper, where products are computed in registers, so few would not do."""


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
    summed, normed, x, taps, bias, later, weight, offset, height, width, channels, eps,
    window_before: tl.constexpr, window_after: tl.constexpr,
    strip: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(1) * strip
    picture = tl.program_id(2).to(tl.int64) * height * width
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    c = tl.arange(0, block)
    real = c < channels
    inside = (column < width)[:, None] & real[None, :]
    start = tl.load(bias + c, mask=real, other=0).to(tl.float32)[None, :]
    start += tl.zeros((columns, block), tl.float32)
    more = tl.load(later + c, mask=real, other=0).to(tl.float32)[None, :]
    # A row that is read is the last one of the sum above it, the middle of its own, the first of
    # the one below.
    above, here = start, start
    for step in tl.static_range(strip + 2):
        row, below = first + step - 1, start
        for tap in tl.static_range(3):
            left = column + tap - 1
            there = (row >= 0) & (row < height) & (left >= 0) & (left < width)
            place = picture + _place(row, left, width, window_before)
            there = there[:, None] & real[None, :]
            value = tl.load(x + place[:, None] * channels + c[None, :], mask=there, other=0)
            value = value.to(tl.float32)
            gains = taps + tap * channels + c
            if step > 1:
                above += value * tl.load(gains + 6 * channels, mask=real, other=0)[None, :]
            if step > 0 and step <= strip:
                here += value * tl.load(gains + 3 * channels, mask=real, other=0)[None, :]
            if step < strip:
                below += value * tl.load(gains, mask=real, other=0)[None, :]
        if step > 1:
            at = picture + _place(row - 1, column, width, window_after)
            at = at[:, None] * channels + c[None, :]
            stored = inside & (row <= height)
            tl.store(summed + at, (above + more).to(summed.dtype.element_ty), mask=stored)
            value = above.to(summed.dtype.element_ty).to(tl.float32)
            _store_normed(normed, at, value, weight, offset, c, real, stored, channels, eps)
        above, here = here, below


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
def _score(query, key, to, length, scale):
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    return tl.where((to < length)[None, :], scores, float("-inf"))


@triton.jit
@no_type_check
def _queries(source, first, length, channels, inside, rows: tl.constexpr):
    at = first + tl.arange(0, rows)
    return tl.load(
        source + at[:, None] * 3 * channels, mask=(at < length)[:, None] & inside, other=0
    )


@triton.jit
@no_type_check
def _attend_rows(
    out, query, key, value, key_rest, value_rest, first, length, channels, inside, d, scale,
    most: tl.constexpr, rest: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Store what some of a window's positions read: softmax(Q Kᵀ · scale) V."""
    at = first + tl.arange(0, rows)
    scores = _score(query, key, tl.arange(0, most), length, scale)
    highest = tl.max(scores, 1)
    if rest:
        scores_rest = _score(query, key_rest, most + tl.arange(0, rest), length, scale)
        highest = tl.maximum(highest, tl.max(scores_rest, 1))
    shares = tl.exp2(scores - highest[:, None])
    total = tl.sum(shares, 1)
    context = tl.dot(shares.to(value.dtype), value, input_precision="ieee")
    if rest:
        shares = tl.exp2(scores_rest - highest[:, None])
        total += tl.sum(shares, 1)
        context += tl.dot(shares.to(value.dtype), value_rest, input_precision="ieee")
    result = (context / total[:, None]).to(out.dtype.element_ty)
    place = out + at[:, None] * channels + d[None, :]
    tl.store(place, result, mask=(at < length)[:, None] & inside)


@triton.jit
@no_type_check
def _attend_within(
    out, qkv, length, channels, width, scale,
    whole: tl.constexpr, rows: tl.constexpr, last: tl.constexpr, most: tl.constexpr,
    rest: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    head, window = tl.program_id(0), tl.program_id(1).to(tl.int64)
    d = tl.arange(0, columns)
    inside = (d < width)[None, :]
    source = qkv + window * length * 3 * channels + head * width + d[None, :]
    out += window * length * channels + head * width
    # All queries are fetched before they are wanted. The positions are some tiles and a rest that
    # fills no tile: 144 = 64 + 64 + 16.
    query = _queries(source, 0, length, channels, inside, rows)
    if last:
        query_last = _queries(source, whole, length, channels, inside, last)
    # As keys they are a power of two and a rest: 144 = 128 + 16.
    to = tl.arange(0, most)
    places, there = source + channels + to[:, None] * 3 * channels, (to < length)[:, None] & inside
    key = tl.load(places, mask=there, other=0)
    value = tl.load(places + channels, mask=there, other=0)
    key_rest, value_rest = key, value
    if rest:
        to = most + tl.arange(0, rest)
        places = source + channels + to[:, None] * 3 * channels
        there = (to < length)[:, None] & inside
        key_rest = tl.load(places, mask=there, other=0)
        value_rest = tl.load(places + channels, mask=there, other=0)
    for first in tl.static_range(0, whole, rows):
        following = query
        if first + rows < whole:
            following = _queries(source, first + rows, length, channels, inside, rows)
        _attend_rows(
            out, query, key, value, key_rest, value_rest, first, length, channels, inside, d, scale,
            most, rest, rows,
        )  # fmt: skip
        query = following
    if last:
        _attend_rows(
            out, query_last, key, value, key_rest, value_rest, whole, length, channels, inside, d,
            scale, most, rest, last,
        )  # fmt: skip


def mix_norm(
    x: Float[Tensor, "B height width C"],
    taps: Float[Tensor, "9 C"],
    bias: Float[Tensor, " C"],
    norm: torch.nn.LayerNorm,
    later: Float[Tensor, " C"],
    window_before: int = 0,
    window_after: int = 0,
) -> tuple[Float[Tensor, "B height width C"], Float[Tensor, "B height width C"]]:
    """Return conv(x) + ``later``, and the layer norm of conv(x).

    Args:
        x: Contiguous.
        taps: The weights of a depthwise 3 × 3 convolution, padded with zeros; float32. With one
            added in the middle, it is a residual sum.
        bias: Of the convolution.
        norm: The layer norm.
        later: The bias of what is to be added next.
        window_before: Side of the windows by which x lies in memory, in positions; 0 for rows.
        window_after: The same of what is returned.
    """
    batch, height, width, channels = x.shape
    block = triton.next_power_of_2(channels)
    warps = 2 if block <= 512 else 4
    columns = max(1, min(32 * warps * THREAD // block, triton.next_power_of_2(width)))
    summed, normed = torch.empty_like(x), torch.empty_like(x)
    _mix_norm[(triton.cdiv(width, columns), triton.cdiv(height, STRIP), batch)](
        summed, normed, x, taps, bias, later, norm.weight, norm.bias, height, width, channels,
        norm.eps, window_before=window_before, window_after=window_after, strip=STRIP,
        columns=columns, block=block, num_warps=warps,
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
    most = max(16, triton.next_power_of_2(length + 1) // 2)
    rest = max(16, triton.next_power_of_2(length - most)) if length > most else 0
    last = length % QUERIES
    _attend_within[(heads, windows)](
        out, qkv, length, channels, width, scale * math.log2(math.e),
        whole=length - last, rows=QUERIES, last=last and max(16, triton.next_power_of_2(last)),
        most=most, rest=rest, columns=max(16, triton.next_power_of_2(width)), num_warps=4,
        **({"maxnreg": REGISTERS} if fetches_tiles(qkv.device) else {}),
    )  # fmt: skip
    return out
