"""Triton kernels for what a UNet does number by number: a feed-forward layer's gate, and sums."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Numbers of a program."""


@triton.jit
@no_type_check
def _cdf(x):
    """Return Φ(x)."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
@no_type_check
def _gate(out, x, width, total, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < total
    value = at + at // width * width  # a row of x holds the values, then the gates
    gate = tl.load(x + value + width, mask=mask, other=0).to(tl.float32)
    result = tl.load(x + value, mask=mask, other=0).to(tl.float32) * gate * _cdf(gate)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def _gate_backward(out, grad, x, width, total, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < total
    place = at + at // width * width
    value = tl.load(x + place, mask=mask, other=0).to(tl.float32)
    gate = tl.load(x + place + width, mask=mask, other=0).to(tl.float32)
    slope = tl.load(grad + at, mask=mask, other=0).to(tl.float32)
    below = _cdf(gate)
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    kind = out.dtype.element_ty
    tl.store(out + place, (slope * gate * below).to(kind), mask=mask)
    tl.store(out + place + width, (slope * value * (below + gate * density)).to(kind), mask=mask)


@triton.jit
@no_type_check
def _sum(out, one, other, bias, channels, total, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < total
    value = tl.load(one + at, mask=mask, other=0).to(tl.float32)
    value += tl.load(other + at, mask=mask, other=0).to(tl.float32)
    value += tl.load(bias + at % channels, mask=mask, other=0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def gate(x: Tensor) -> Tensor:
    """Return a GELU(b) of x = (a, b) along the last dimension, x contiguous."""
    out = x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
    grid = (triton.cdiv(out.numel(), BLOCK),)
    _gate[grid](out, x, out.shape[-1], out.numel(), block=BLOCK)
    return out


def gate_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of x by that of ``gate``, both contiguous."""
    out = torch.empty_like(x)
    grid = (triton.cdiv(grad.numel(), BLOCK),)
    _gate_backward[grid](out, grad, x, grad.shape[-1], grad.numel(), block=BLOCK)
    return out


def add_with_bias(one: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """Return one + other + bias by channel, all (B, C, *) channels last in memory."""
    out = torch.empty_like(one)
    grid = (triton.cdiv(out.numel(), BLOCK),)
    _sum[grid](out, one, other, bias, one.shape[1], out.numel(), block=BLOCK)
    return out
