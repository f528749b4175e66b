"""Triton kernels for group normalisation, with what stands before and after it, channels last.

A residual block of a UNet adds a number to each channel, normalises, and applies SiLU. As PyTorch's
operations that is seven kernels, two of them to turn the layout, and eleven in the backward pass.

Sums are taken of values less the first one of their group, so that a mean which is large against
the deviation costs no digits, and in an order that does not vary from run to run.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

kernel = triton.jit(do_not_specialize=["rows", "width", "chunk", "parts", "silu", "shifted"])
"""Of each kernel there are few variants: a second of compilation each, when a run begins."""

ROWS, CHANNELS = 32, 64
"""A tile where several programs share a group."""

PARTS = 64
"""Chunks of rows at most, each summed by a program."""

SMALL = 1 << 15
"""Numbers of a group that one program goes through; more are shared."""

TILE = 4096
"""Numbers that it takes at once."""


@triton.jit
@no_type_check
def _raw(x, shift, at, channel, mask, shifted):
    """Load what is normalised: a tile of x, with what each channel is shifted by."""
    value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    return value + tl.load(shift + channel, mask=mask & (shifted > 0), other=0).to(tl.float32)


@triton.jit
@no_type_check
def _activated(normal, weight, bias, silu):
    value = normal * weight + bias
    return tl.where(silu > 0, value * tl.sigmoid(value), value)


@triton.jit
@no_type_check
def _slope(grad, normal, weight, bias, silu):
    """Return the gradient of the normalised values by that of the output."""
    value = normal * weight + bias
    share = tl.sigmoid(value)
    return grad * weight * tl.where(silu > 0, share * (1 + value * (1 - share)), 1.0)


@kernel
@no_type_check
def _group_forward(
    out, stats, x, shift, weight, bias, rows, channels, width, silu, shifted, eps,
    tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Normalise one group of one picture."""
    picture, group = tl.program_id(0), tl.program_id(1)
    column = group * width + tl.arange(0, wide)[None, :]
    inside = tl.arange(0, wide)[None, :] < width
    start = picture.to(tl.int64) * rows * channels
    shift += picture * channels * shifted
    first = tl.load(x + start + group * width).to(tl.float32)
    first += tl.load(shift + group * width, mask=shifted > 0, other=0).to(tl.float32)
    total = tl.zeros((tall, wide), tl.float32)
    square = tl.zeros((tall, wide), tl.float32)
    for begin in range(0, rows, tall):
        row = begin + tl.arange(0, tall)[:, None]
        mask = (row < rows) & inside
        value = _raw(x, shift, start + row * channels + column, column, mask, shifted)
        value = tl.where(mask, value - first, 0)
        total += value
        square += value * value
    count = rows * width
    mean = tl.sum(tl.sum(total, 1), 0) / count
    variance = tl.sum(tl.sum(square, 1), 0) / count - mean * mean
    mean += first
    scale = 1 / tl.sqrt(tl.maximum(variance, 0) + eps)
    place = stats + 2 * (picture * tl.num_programs(1) + group)
    tl.store(place, mean)
    tl.store(place + 1, scale)
    w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    for begin in range(0, rows, tall):
        row = begin + tl.arange(0, tall)[:, None]
        mask = (row < rows) & inside
        at = start + row * channels + column
        normal = (_raw(x, shift, at, column, mask, shifted) - mean) * scale
        tl.store(out + at, _activated(normal, w, b, silu).to(out.dtype.element_ty), mask=mask)


@kernel
@no_type_check
def _group_backward(
    out, grad, x, shift, weight, bias, stats, rows, channels, width, silu, shifted,
    tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of one group of one picture."""
    picture, group = tl.program_id(0), tl.program_id(1)
    column = group * width + tl.arange(0, wide)[None, :]
    inside = tl.arange(0, wide)[None, :] < width
    start = picture.to(tl.int64) * rows * channels
    shift += picture * channels * shifted
    place = stats + 2 * (picture * tl.num_programs(1) + group)
    mean, scale = tl.load(place), tl.load(place + 1)
    w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    total = tl.zeros((tall, wide), tl.float32)
    along = tl.zeros((tall, wide), tl.float32)
    for begin in range(0, rows, tall):
        row = begin + tl.arange(0, tall)[:, None]
        mask = (row < rows) & inside
        at = start + row * channels + column
        normal = (_raw(x, shift, at, column, mask, shifted) - mean) * scale
        slope = _slope(tl.load(grad + at, mask=mask, other=0).to(tl.float32), normal, w, b, silu)
        total += slope
        along += slope * normal
    count = rows * width
    total_mean = tl.sum(tl.sum(total, 1), 0) / count
    along_mean = tl.sum(tl.sum(along, 1), 0) / count
    for begin in range(0, rows, tall):
        row = begin + tl.arange(0, tall)[:, None]
        mask = (row < rows) & inside
        at = start + row * channels + column
        normal = (_raw(x, shift, at, column, mask, shifted) - mean) * scale
        slope = _slope(tl.load(grad + at, mask=mask, other=0).to(tl.float32), normal, w, b, silu)
        value = scale * (slope - total_mean - normal * along_mean)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@kernel
@no_type_check
def _sums(
    sums, grad, x, shift, weight, bias, stats, rows, channels, width, silu, shifted, chunk,
    backward: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Add up two numbers by channel, over a chunk of rows: value and square, or the slope's."""
    picture, part = tl.program_id(0), tl.program_id(1)
    column = tl.program_id(2) * wide + tl.arange(0, wide)[None, :]
    inside = column < channels
    start = picture.to(tl.int64) * rows * channels
    shift += picture * channels * shifted
    group = column // width
    if backward:
        place = stats + 2 * (picture * (channels // width) + group)
        mean = tl.load(place, mask=inside, other=0)
        scale = tl.load(place + 1, mask=inside, other=0)
        w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
        b = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    else:
        first = _raw(x, shift, start + group * width, group * width, inside, shifted)
    total = tl.zeros((tall, wide), tl.float32)
    other = tl.zeros((tall, wide), tl.float32)
    for begin in range(part * chunk, tl.minimum(part * chunk + chunk, rows), tall):
        row = begin + tl.arange(0, tall)[:, None]
        mask = (row < rows) & (row < part * chunk + chunk) & inside
        at = start + row * channels + column
        value = _raw(x, shift, at, column, mask, shifted)
        if backward:
            normal = (value - mean) * scale
            grads = tl.load(grad + at, mask=mask, other=0).to(tl.float32)
            slope = _slope(grads, normal, w, b, silu)
            total += slope
            other += slope * normal
        else:
            value = tl.where(mask, value - first, 0)
            total += value
            other += value * value
    to = sums + 2 * (picture * tl.num_programs(1) + part) * channels + column
    tl.store(to, tl.sum(total, 0)[None, :], mask=inside)
    tl.store(to + channels, tl.sum(other, 0)[None, :], mask=inside)


@kernel
@no_type_check
def _finish(
    result, sums, x, shift, rows, channels, width, shifted, parts, eps,
    backward: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Turn a group's sums into its mean and 1/deviation, or into the means of the backward pass."""
    picture, group = tl.program_id(0), tl.program_id(1)
    part = tl.arange(0, tall)[:, None]
    mask = (part < parts) & (tl.arange(0, wide)[None, :] < width)
    at = 2 * (picture * parts + part) * channels + group * width + tl.arange(0, wide)[None, :]
    count = rows * width
    mean = tl.sum(tl.sum(tl.load(sums + at, mask=mask, other=0), 1), 0) / count
    other = tl.sum(tl.sum(tl.load(sums + at + channels, mask=mask, other=0), 1), 0) / count
    if not backward:
        other = 1 / tl.sqrt(tl.maximum(other - mean * mean, 0) + eps)
        first = group * width
        mean += tl.load(x + picture.to(tl.int64) * rows * channels + first).to(tl.float32)
        first += picture * channels
        mean += tl.load(shift + first, mask=shifted > 0, other=0).to(tl.float32)
    place = result + 2 * (picture * tl.num_programs(1) + group)
    tl.store(place, mean)
    tl.store(place + 1, other)


@kernel
@no_type_check
def _apply(
    out, grad, x, shift, weight, bias, stats, means, rows, channels, width, silu, shifted,
    backward: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Write a tile of the output, or of the gradient."""
    picture = tl.program_id(0)
    row = tl.program_id(1) * tall + tl.arange(0, tall)[:, None]
    column = tl.program_id(2) * wide + tl.arange(0, wide)[None, :]
    inside = column < channels
    mask = (row < rows) & inside
    at = picture.to(tl.int64) * rows * channels + row * channels + column
    shift += picture * channels * shifted
    place = 2 * (picture * (channels // width) + column // width)
    mean = tl.load(stats + place, mask=inside, other=0)
    scale = tl.load(stats + place + 1, mask=inside, other=0)
    w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    normal = (_raw(x, shift, at, column, mask, shifted) - mean) * scale
    if backward:
        slope = _slope(tl.load(grad + at, mask=mask, other=0).to(tl.float32), normal, w, b, silu)
        total_mean = tl.load(means + place, mask=inside, other=0)
        along_mean = tl.load(means + place + 1, mask=inside, other=0)
        value = scale * (slope - total_mean - normal * along_mean)
    else:
        value = _activated(normal, w, b, silu)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def normalize(
    x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the output, and each group's mean and 1/deviation (B, groups, 2) in float32.

    Args:
        x: (B, C, *), channels last in memory; less than 2³¹ numbers a picture.
        shift: (B, C), contiguous, added to x before anything else.
        weight: (C,).
        bias: (C,).
        groups: That C is divided into.
        eps: Added to the variance.
        silu: Whether SiLU comes after.
    """
    stats = x.new_empty((len(x), groups, 2), dtype=torch.float32)
    out = _run(None, x, shift, weight, bias, stats, eps, silu)
    return out, stats


def normalize_backward(
    grad: Tensor, x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, stats: Tensor,
    silu: bool,
) -> Tensor:  # fmt: skip
    """Return the gradient of x by that of the output, also channels last."""
    return _run(grad, x, shift, weight, bias, stats, 0.0, silu)


def _run(
    grad: Tensor | None, x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor,
    stats: Tensor, eps: float, silu: bool,
) -> Tensor:  # fmt: skip
    out = torch.empty_like(x)
    backward, groups = grad is not None, stats.shape[1]
    count, channels = x.shape[:2]
    rows, width = x.shape[2:].numel(), channels // groups
    given = grad if backward else x
    shape = (rows, channels, width)
    todo = (int(silu), int(shift is not None))
    shift = weight if shift is None else shift.contiguous()  # the weight is not read
    wide = triton.next_power_of_2(width)
    if rows * width <= SMALL:
        tile = {"tall": max(1, TILE // wide), "wide": wide, "num_warps": 8}
        if backward:
            _group_backward[(count, groups)](
                out, given, x, shift, weight, bias, stats, *shape, *todo, **tile
            )
        else:
            _group_forward[(count, groups)](
                out, stats, x, shift, weight, bias, *shape, *todo, eps, **tile
            )
        return out
    columns = triton.cdiv(channels, CHANNELS)
    chunk = ROWS * triton.cdiv(rows, PARTS * ROWS)
    parts = triton.cdiv(rows, chunk)
    sums = x.new_empty((count, parts, 2, channels), dtype=torch.float32)
    means = torch.empty_like(stats) if backward else stats
    tile = {"tall": ROWS, "wide": CHANNELS, "backward": backward}
    _sums[(count, parts, columns)](
        sums, given, x, shift, weight, bias, stats, *shape, *todo, chunk, **tile
    )
    _finish[(count, groups)](
        means, sums, x, shift, *shape, todo[1], parts, eps,
        backward=backward, tall=PARTS, wide=wide,
    )  # fmt: skip
    _apply[(count, triton.cdiv(rows, ROWS), columns)](
        out, given, x, shift, weight, bias, stats, means, *shape, *todo, **tile
    )
    return out
