"""Triton kernels for attention to the encoder's output itself, without keys and values of it.

A score is q · (W s + b) for a state s of the encoder's output; q · b is the same for all states and
leaves the softmax alone, so it is (Wᵀ q) · s. Likewise the values' product can follow the sum:
DeepSeek-V2's absorbed form of attention (2024, arXiv:2405.04434, section 2.1.2). All layers and
heads then read the same states, in a decoder of 12 layers with 1/24 of the memory that keys and
values take; of these, each layer reads twice as many bytes as there are states. The price is
arithmetic: each head reads vectors of C numbers instead of D.

B: batch, H: heads, D: width of a head, C = H · D, S: states, P: parts of a sum, G: groups of
channels.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from elf.taggers.launching import begin_next, is_roomy, launch, power, wait, wait_for_last

HEADS = 16
"""At most; they are the rows of the smallest matrix product."""

TILE = 16
"""States that are multiplied at once."""

GROUPS = 4
"""Of channels; one for each warp, so that no two read the same of the states."""

PROGRAMS = 128
"""About the multiprocessors of a large device; each program fills one with tiles on their way."""

FOLDED, UNFOLDED, ROWS = 128, 16, 32
"""Columns of the products before and after, and rows of a program of the latter."""


@triton.jit
@no_type_check
def _fold(
    out, queries, bias, matrix, batch, heads, width, scale, count: tl.constexpr,
    has_bias: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
    early: tl.constexpr,
):  # fmt: skip
    """Multiply a head's queries with its keys' matrix."""
    head, at = tl.program_id(0), tl.program_id(1) * block + tl.arange(0, block)
    row = tl.program_id(2) * rows + tl.arange(0, rows)
    channels = heads * width
    d = head * width + tl.arange(0, columns)
    inside, real = at < channels, (row < batch)[:, None]
    weights = tl.load(matrix + d[:, None] * channels + at[None, :], mask=inside[None, :], other=0)
    query = tl.zeros((rows, columns), tl.float32)
    if has_bias:
        query += tl.load(bias + d).to(tl.float32)[None, :]
    wait(early)
    for number in tl.static_range(count):
        place = queries + (number * batch + row[:, None]) * channels + d[None, :]
        query += tl.load(place, mask=real, other=0).to(tl.float32)
    folded = tl.dot(query.to(weights.dtype), weights) * scale
    place = out + (row[:, None] * heads + head) * channels + at[None, :]
    tl.store(place, folded.to(out.dtype.element_ty), mask=real & inside[None, :])


@triton.jit
@no_type_check
def _read_source(
    out, shares, folded, states, source, stride, heads, channels, whole, ragged: tl.constexpr,
    rows: tl.constexpr, tile: tl.constexpr, groups: tl.constexpr, chunk: tl.constexpr,
    early: tl.constexpr,
):  # fmt: skip
    """Sum up a part of the states by a softmax in base 2, for all heads of a picture."""
    row, part = tl.program_id(0), tl.program_id(1)
    head, at = tl.arange(0, rows), tl.arange(0, tile)
    h = head[None, :, None]
    c = (tl.arange(0, groups) * chunk)[:, None, None] + tl.arange(0, chunk)[None, None, :]
    wait_for_last(early)
    place = folded + (row * heads + h) * channels + c
    query = tl.load(place, mask=(h < heads) & (c < channels), other=0)
    states += row.to(tl.int64) * stride
    most = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    context = tl.zeros((groups, rows, chunk), tl.float32)
    for start in range(0, whole, tile):
        t = part * whole + start + at
        real = (t < source)[None, :, None]
        if ragged:
            real &= c < channels
        state = tl.load(states + t[None, :, None] * channels + c, mask=real, other=0)
        scores = tl.sum(tl.dot(query, tl.permute(state, (0, 2, 1))), 0)
        scores = tl.where((t < source)[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        share = tl.exp2(scores - higher[:, None])
        decay = tl.exp2(most - higher)
        total = total * decay + tl.sum(share, 1)
        most = higher
        share = share.to(state.dtype)[None, :, :]
        share = tl.broadcast_to(share, (groups, rows, tile))
        context = tl.dot(share, state, context * decay[None, :, None])
    begin_next(early)  # not before: its programs would hold what others of this kernel still want
    place = (row * tl.num_programs(1) + part) * heads
    result = (context * (1 / total)[None, :, None]).to(out.dtype.element_ty)
    tl.store(out + (place + h) * channels + c, result, mask=(h < heads) & (c < channels))
    tl.store(shares + 2 * (place + head), most, mask=head < heads)
    tl.store(shares + 2 * (place + head) + 1, total, mask=head < heads)


@triton.jit
@no_type_check
def _unfold(
    out, parts, shares, matrix, bias, batch, heads, width, count: tl.constexpr,
    has_bias: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
    early: tl.constexpr,
):  # fmt: skip
    """Join a head's parts, and multiply them with its values' matrix."""
    head, k = tl.program_id(0), tl.arange(0, block)
    channels = heads * width
    d = head * width + tl.program_id(1) * columns + tl.arange(0, columns)
    row = tl.program_id(2) * rows + tl.arange(0, rows)
    real = row < batch
    first = row * count * heads + head
    wait(early)
    top = tl.full((rows,), float("-inf"), tl.float32)
    for part in tl.static_range(count):
        place = shares + 2 * (first + part * heads)
        top = tl.maximum(top, tl.load(place, mask=real, other=0))
    total = tl.zeros((rows,), tl.float32)
    for part in tl.static_range(count):
        place = shares + 2 * (first + part * heads)
        weight = tl.exp2(tl.load(place, mask=real, other=0) - top)
        total += weight * tl.load(place + 1, mask=real, other=1)
    product = tl.zeros((rows, columns), tl.float32)
    for start in range(0, channels, block):
        at = start + k
        inside = at < channels
        context = tl.zeros((rows, block), tl.float32)
        for part in tl.static_range(count):
            share = shares + 2 * (first + part * heads)
            ratio = tl.exp2(tl.load(share, mask=real, other=0) - top)
            ratio *= tl.load(share + 1, mask=real, other=1) / total
            read = parts + (first + part * heads)[:, None] * channels + at[None, :]
            there = real[:, None] & inside[None, :]
            context += ratio[:, None] * tl.load(read, mask=there, other=0).to(tl.float32)
        column = matrix + d[None, :] * channels + at[:, None]
        weights = tl.load(column, mask=inside[:, None], other=0)
        product = tl.dot(context.to(weights.dtype), weights, product)
    if has_bias:
        product += tl.load(bias + d).to(tl.float32)[None, :]
    place = out + row[:, None] * channels + d[None, :]
    tl.store(place, product.to(out.dtype.element_ty), mask=real[:, None])


def can_read_source(heads: int, width: int, dtype: torch.dtype) -> bool:
    """Return whether `read_source` is made for so many heads of such a width."""
    fits = heads <= HEADS and 16 <= width == power(width) and heads * width <= 1024
    return fits and dtype.itemsize == 2


def read_source(
    queries: Float[Tensor, "B C"] | Float[Tensor, "P B C"],
    states: Float[Tensor, "B S C"],
    source: int,
    keys: Float[Tensor, "C C"],
    values: torch.nn.Linear,
    heads: int,
    scale: float,
    bias: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, "B C"]:
    """Return what queries read of a few states, in a 16-bit type.

    Args:
        queries: They, or the parts of a product that they are the sum of.
        states: The encoder's output; what is beyond the first ``source`` is not read.
        source: How many there are.
        keys: The keys' matrix.
        values: The values' matrix and bias.
        heads: Their number.
        scale: Of the scores.
        bias: Added to the queries.
    """
    batch, _, channels = states.shape
    width = channels // heads
    folded = states.new_empty(batch, heads, channels)
    rows = min(64, max(16, power(batch)))
    _fold[(heads, triton.cdiv(channels, FOLDED), triton.cdiv(batch, rows))](
        folded, queries, bias, keys, batch, heads, width, scale * math.log2(math.e),
        count=queries.numel() // (batch * channels), has_bias=bias is not None, rows=rows,
        columns=width, block=min(FOLDED, power(channels)), **launch(states),
    )  # fmt: skip
    tiles = triton.cdiv(source, TILE)
    whole = triton.cdiv(tiles, min(tiles, max(1, PROGRAMS // batch))) * TILE
    count = triton.cdiv(source, whole)  # none is empty
    parts = states.new_empty(batch, count, heads, channels)
    shares = states.new_empty(batch, count, heads, 2, dtype=torch.float32)
    chunk = max(16, power(channels) // GROUPS)
    _read_source[(batch, count)](
        parts, shares, folded, states, source, states.stride(0), heads, channels, whole,
        ragged=channels != chunk * GROUPS, rows=HEADS, tile=TILE, groups=GROUPS, chunk=chunk,
        num_stages=4 if is_roomy(states.device) else 2, **launch(states),
    )  # fmt: skip
    out = states.new_empty(batch, channels)
    rows = min(ROWS, max(16, power(batch)))
    _unfold[(heads, width // UNFOLDED, triton.cdiv(batch, rows))](
        out, parts, shares, values.weight, values.bias, batch, heads, width,
        count=count, has_bias=values.bias is not None, rows=rows, columns=UNFOLDED,
        block=min(128, power(channels)), **launch(states),
    )  # fmt: skip
    return out
