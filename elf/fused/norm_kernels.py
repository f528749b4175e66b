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

ROWS, CHANNELS = 32, 64
"""A tile where several programs share a group."""

SMALL = 1 << 15
"""Numbers of a group that one program goes through; more are shared."""

TILE = 4096
"""Numbers that it takes at once."""


@triton.jit
@no_type_check
def _raw(x, shift, at, channel, mask, shifted: tl.constexpr):
    """Load what is normalised: a tile of x, with what each channel is shifted by."""
    value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    if shifted:
        value += tl.load(shift + channel, mask=mask, other=0).to(tl.float32)
    return value


@triton.jit
@no_type_check
def _activated(normal, weight, bias, silu: tl.constexpr):
    value = normal * weight + bias
    if silu:
        value = value * tl.sigmoid(value)
    return value


@triton.jit
@no_type_check
def _slope(grad, normal, weight, bias, silu: tl.constexpr):
    """Return the gradient of the normalised values by that of the output."""
    if silu:
        value = normal * weight + bias
        share = tl.sigmoid(value)
        grad = grad * share * (1 + value * (1 - share))
    return grad * weight


@triton.jit
@no_type_check
def _group_forward(
    out, stats, x, shift, weight, bias, rows, channels, width, eps,
    silu: tl.constexpr, shifted: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Normalise one group of one picture."""
    picture, group = tl.program_id(0), tl.program_id(1)
    column = group * width + tl.arange(0, wide)[None, :]
    inside = tl.arange(0, wide)[None, :] < width
    start = picture.to(tl.int64) * rows * channels
    shift += picture * channels
    first = tl.load(x + start + group * width).to(tl.float32)
    if shifted:
        first += tl.load(shift + group * width).to(tl.float32)
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


@triton.jit
@no_type_check
def _group_backward(
    out, grad, x, shift, weight, bias, stats, rows, channels, width,
    silu: tl.constexpr, shifted: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of one group of one picture."""
    picture, group = tl.program_id(0), tl.program_id(1)
    column = group * width + tl.arange(0, wide)[None, :]
    inside = tl.arange(0, wide)[None, :] < width
    start = picture.to(tl.int64) * rows * channels
    shift += picture * channels
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


@triton.jit
@no_type_check
def _sums(
    sums, grad, x, shift, weight, bias, stats, rows, channels, width, chunk,
    backward: tl.constexpr, silu: tl.constexpr, shifted: tl.constexpr,
    tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Add up two numbers by channel, over a chunk of rows: value and square, or the slope's."""
    picture, part = tl.program_id(0), tl.program_id(1)
    column = tl.program_id(2) * wide + tl.arange(0, wide)[None, :]
    inside = column < channels
    start = picture.to(tl.int64) * rows * channels
    shift += picture * channels
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


@triton.jit
@no_type_check
def _finish(
    result, sums, x, shift, rows, channels, width, parts, eps,
    backward: tl.constexpr, shifted: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
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
        mean += tl.load(x + picture.to(tl.int64) * rows * channels + group * width).to(tl.float32)
        if shifted:
            mean += tl.load(shift + picture * channels + group * width).to(tl.float32)
    place = result + 2 * (picture * tl.num_programs(1) + group)
    tl.store(place, mean)
    tl.store(place + 1, other)


@triton.jit
@no_type_check
def _apply(
    out, grad, x, shift, weight, bias, stats, means, rows, channels, width,
    backward: tl.constexpr, silu: tl.constexpr, shifted: tl.constexpr,
    tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Write a tile of the output, or of the gradient."""
    picture = tl.program_id(0)
    row = tl.program_id(1) * tall + tl.arange(0, tall)[:, None]
    column = tl.program_id(2) * wide + tl.arange(0, wide)[None, :]
    inside = column < channels
    mask = (row < rows) & inside
    at = picture.to(tl.int64) * rows * channels + row * channels + column
    shift += picture * channels
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
        x: (B, C, *), channels last in memory.
        shift: (B, C), added to x before anything else.
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
    backward, shifted, groups = grad is not None, shift is not None, stats.shape[1]
    count, channels = x.shape[:2]
    rows, width = x[0, 0].numel(), channels // groups
    shift = weight if shift is None else shift  # not read then
    wide = triton.next_power_of_2(width)
    if rows * width <= SMALL:
        tall = min(triton.next_power_of_2(rows), max(1, TILE // wide))
        shape = {"silu": silu, "shifted": shifted, "tall": tall, "wide": wide}
        kernel, grid = (_group_backward if backward else _group_forward), (count, groups)
        if backward:
            kernel[grid](out, grad, x, shift, weight, bias, stats, rows, channels, width, **shape)
        else:
            kernel[grid](
                out, stats, x, shift, weight, bias, rows, channels, width, eps, **shape
            )  # fmt: skip
        return out
    columns = triton.cdiv(channels, CHANNELS)
    chunk = ROWS * max(1, triton.cdiv(rows, 64 * ROWS))  # up to 64 chunks
    parts = triton.cdiv(rows, chunk)
    sums = x.new_empty((count, parts, 2, channels), dtype=torch.float32)
    means = torch.empty_like(stats) if backward else stats
    given = grad if backward else x
    tile = {"shifted": shifted, "tall": ROWS, "wide": CHANNELS, "backward": backward}
    _sums[(count, parts, columns)](
        sums, given, x, shift, weight, bias, stats, rows, channels, width, chunk, silu=silu, **tile
    )  # fmt: skip
    _finish[(count, groups)](
        means, sums, x, shift, rows, channels, width, parts, eps, backward=backward,
        shifted=shifted, tall=triton.next_power_of_2(parts), wide=wide,
    )  # fmt: skip
    _apply[(count, triton.cdiv(rows, ROWS), columns)](
        out, given, x, shift, weight, bias, stats, means, rows, channels, width, silu=silu, **tile
    )  # fmt: skip
    return out
