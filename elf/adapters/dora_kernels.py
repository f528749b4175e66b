"""Triton kernels for DoRA on the output axis: the norms of all layers at once, and the gains.

As PyTorch's operations the norms of SD1.5's 128 attention layers are some four hundred kernels a
step, and a gain is four in the backward pass of each layer.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

TALL, DEEP = 64, 64
"""Rows of a weight for a program, and inputs that it takes at once."""

CHUNK, TILE = 64, (16, 64)
"""Tokens that are summed by one program, and a tile of them."""

BLOCK = 1024
"""Numbers of a program that scales."""

KINDS = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit
@no_type_check
def _norms(
    table, places, scale, rank, kind: tl.constexpr, to: tl.constexpr, aligned: tl.constexpr,
    tall: tl.constexpr, deep: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Write n and 1 - m / n of some rows of a layer; see `elf.adapters.dora.norms`."""
    layer = table + tl.load(places + 2 * tl.program_id(0)) * 9
    row = tl.load(places + 2 * tl.program_id(0) + 1) + tl.arange(0, tall)
    weight = tl.load(layer).to(tl.pointer_type(kind))
    a = tl.load(layer + 1).to(tl.pointer_type(tl.float32))
    b = tl.load(layer + 2).to(tl.pointer_type(tl.float32))
    outputs, inputs = tl.load(layer + 7), tl.load(layer + 8)
    if aligned:
        weight, a = tl.multiple_of(weight, 16), tl.multiple_of(a, 16)
        inputs = tl.multiple_of(inputs, 16)
    r = tl.arange(0, wide)
    there = row < outputs
    shared = tl.zeros((tall, wide), tl.float32)
    gram = tl.zeros((wide, wide), tl.float32)
    for begin in range(0, inputs, deep):
        k = begin + tl.arange(0, deep)
        mask = there[:, None] & (k < inputs)[None, :]
        w = tl.load(weight + row[:, None] * inputs + k[None, :], mask=mask, other=0)
        mask = (r < rank)[:, None] & (k < inputs)[None, :]
        down = tl.load(a + r[:, None] * inputs + k[None, :], mask=mask, other=0)
        shared = tl.dot(w.to(tl.float32), down.T, shared, input_precision="ieee")
        gram = tl.dot(down, down.T, gram, input_precision="ieee")
    mask = there[:, None] & (r < rank)[None, :]
    up = tl.load(b + row[:, None] * rank + r[None, :], mask=mask, other=0)
    update = tl.dot(up, gram, input_precision="ieee")
    change = tl.sum((2 * scale * shared + scale * scale * update) * up, 1)
    base = tl.load(tl.load(layer + 3).to(tl.pointer_type(tl.float32)) + row, mask=there, other=1)
    norm = tl.sqrt(tl.maximum(base + change, 0))
    norm = tl.where(norm > 0, norm, 1)
    magnitude = tl.load(layer + 4).to(tl.pointer_type(tl.float32))
    lost = 1 - tl.load(magnitude + row, mask=there, other=1) / norm
    tl.store(tl.load(layer + 5).to(tl.pointer_type(tl.float32)) + row, norm, mask=there)
    tl.store(tl.load(layer + 6).to(tl.pointer_type(to)) + row, lost.to(to), mask=there)


@triton.jit
@no_type_check
def _scale(out, x, lost, bias, width, total, biased: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < total
    value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    share = tl.load(lost + at % width, mask=mask, other=0).to(tl.float32)
    if biased:
        b = tl.load(bias + at % width, mask=mask, other=0).to(tl.float32)
        value -= (value - b) * share
    else:
        value -= value * share
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def _scale_backward(
    out, sums, grad, x, lost, norm, bias, rows, width, out_row, sums_row, grad_row, x_row, chunk,
    biased: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Write x's gradient, and what a chunk of tokens adds to the magnitude's."""
    column = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = column < width
    share = tl.load(lost + column, mask=inside, other=0).to(tl.float32)[None, :]
    total = tl.zeros((tall, wide), tl.float32)
    first = tl.program_id(0).to(tl.int64) * chunk
    for begin in range(0, chunk, tall):
        row = first + begin + tl.arange(0, tall)[:, None]
        mask = (row < rows) & inside[None, :]
        slope = tl.load(grad + row * grad_row + column[None, :], mask=mask, other=0).to(tl.float32)
        value = tl.load(x + row * x_row + column[None, :], mask=mask, other=0).to(tl.float32)
        if biased:
            value -= tl.load(bias + column, mask=inside, other=0).to(tl.float32)[None, :]
        total += slope * value
        result = slope - slope * share
        to = out + row * out_row + column[None, :]
        tl.store(to, result.to(out.dtype.element_ty), mask=mask)
    length = tl.load(norm + column, mask=inside, other=1)
    to = sums + tl.program_id(0) * sums_row + column
    tl.store(to, tl.sum(total, 0) / length, mask=inside)


class NormTable:
    """Where the tensors of layers lie that share a rank, a scale and types.

    Args:
        layers: Of each W₀ (out, in), A, B, c₀, m, n and 1 − m / n, all contiguous.
        scale: s.
    """

    def __init__(self, layers: Sequence[Sequence[Tensor]], scale: float) -> None:
        weight, a, *_, lost = layers[0]
        self._scale, self._rank = scale, len(a)
        self._kinds = {"kind": KINDS[weight.dtype], "to": KINDS[lost.dtype]}
        rows = [[*(each.data_ptr() for each in layer), *layer[0].shape] for layer in layers]
        self._aligned = all(row[part] % 16 == 0 for row in rows for part in (0, 1, 8))
        places = [
            (index, row)
            for index, layer in enumerate(layers)
            for row in range(0, len(layer[0]), TALL)
        ]
        self._table = torch.tensor(rows, dtype=torch.int64, device=weight.device)
        self._places = torch.tensor(places, dtype=torch.int32, device=weight.device)

    def refresh(self) -> None:
        """Write all n and 1 − m / n."""
        _norms[(len(self._places),)](
            self._table, self._places, self._scale, self._rank, tall=TALL, deep=DEEP,
            wide=max(16, triton.next_power_of_2(self._rank)), aligned=self._aligned, **self._kinds,
        )  # fmt: skip


def scale(x: Tensor, lost: Tensor, bias: Tensor | None) -> Tensor:
    """Return y - (1 - g) (y - b) of contiguous y (*, out)."""
    out = torch.empty_like(x)
    biased, given = bias is not None, lost if bias is None else bias
    grid = (triton.cdiv(x.numel(), BLOCK),)
    _scale[grid](out, x, lost, given, x.shape[-1], x.numel(), biased=biased, block=BLOCK)
    return out


def scale_backward(
    grads: Sequence[Tensor], x: Tensor, lost: Tensor, norm: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of y (rows, out) and of m (out,).

    Args:
        grads: Of the result, side by side: (rows, part) each, the last stride 1.
        x: y, contiguous.
        lost: 1 − g (out,).
        norm: n (out,).
        bias: b (out,).
    """
    out = torch.empty_like(x)
    rows, width = x.shape
    sums = x.new_empty((triton.cdiv(rows, CHUNK), width), dtype=torch.float32)
    biased, given = bias is not None, lost if bias is None else bias
    first = 0
    for grad in grads:
        here: Any = slice(first, first + grad.shape[1])
        first = here.stop
        _scale_backward[(len(sums), triton.cdiv(grad.shape[1], TILE[1]))](
            out[:, here], sums[:, here], grad, x[:, here], lost[here], norm[here], given[here],
            rows, grad.shape[1], width, width, grad.stride(0), width, CHUNK,
            biased=biased, tall=TILE[0], wide=TILE[1],
        )  # fmt: skip
    return out, sums.sum(0)
