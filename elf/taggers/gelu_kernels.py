"""A Triton kernel for a matrix product and the GELU after it, where there are many rows.

By itself GELU takes half as long as the product before it: it reads and writes four numbers for
each that the layer gets. Within the product it is hidden, if the next tile is on its way meanwhile
and the function is cheap: the one of the device's library costs more than it saves.
"""

from collections.abc import Callable
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from transformers.activations import GELUActivation
from triton.tools.tensor_descriptor import TensorDescriptor

from elf.taggers.launching import fetches_tiles, processors

TALL, BROAD, DEEP = 128, 256, 64
"""Rows and outputs of a tile, and inputs that are multiplied at once."""

GROUP = 8
"""Tiles below each other that are computed one after the other, for what is left in the cache."""

ROUNDS = 2
"""Tiles for each multiprocessor from which on the kernel pays: there is nothing to hide GELU behind
in the last one."""


@triton.jit
@no_type_check
def _gelu(x):
    """Return x Φ(x), GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415), within 2.1e-5.

    Φ(x) = 1/2 + x q(x²) up to |x| = 4.5, and 0 or 1 beyond. q is a polynomial of degree 9 in
    2 (x / 4.5)² - 1, fitted by least squares at 40,001 points of x in [0, 4.5], weighted by
    x (x + 0.2), so that Φ(4.5) = 1.
    """
    within = tl.minimum(tl.maximum(x, -4.5), 4.5)
    u = within * within * 0.09876543209876543 - 1.0
    q = u * -0.0016043951 + 0.0047012786
    q = q * u - 0.00661933
    q = q * u + 0.010072122
    q = q * u - 0.018193353
    q = q * u + 0.028654438
    q = q * u - 0.040289026
    q = q * u + 0.054667734
    q = q * u - 0.07718374
    q = q * u + 0.15690538
    # At -4.5 the sum is 0, or by fused arithmetic -3.7e-9: much where x is large.
    return x * tl.maximum(within * q + 0.5, 0.0)


@triton.jit
@no_type_check
def _store_gelu(out, value, bias, row, column, width, count: tl.constexpr):
    at = column + tl.arange(0, count)
    value += tl.load(bias + at, mask=at < width, other=0).to(tl.float32)[None, :]
    out.store([row, column], _gelu(value).to(out.dtype))


@triton.jit
@no_type_check
def _gelu_product(
    out, x, matrix, bias, rows, width, depth,
    tall: tl.constexpr, broad: tl.constexpr, deep: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    high, wide = tl.cdiv(rows, tall), tl.cdiv(width, broad)
    half: tl.constexpr = broad // 2
    # One loop over all of a program's tiles: the next one's inputs are fetched during GELU.
    for tile in tl.range(tl.program_id(0), high * wide, tl.num_programs(0), flatten=True):
        first = tile // (group * wide) * group
        size = tl.minimum(high - first, group)
        row = (first + tile % (group * wide) % size) * tall
        column = tile % (group * wide) // size * broad
        total = tl.zeros((tall, broad), tl.float32)
        for step in range(tl.cdiv(depth, deep)):
            left, right = x.load([row, step * deep]), matrix.load([column, step * deep])
            total = tl.dot(left, right.T, total)
        # by halves, which need less of the memory that the tiles on their way lie in
        total = tl.permute(tl.reshape(total, (tall, 2, half)), (0, 2, 1))
        left_half, right_half = tl.split(total)
        _store_gelu(out, left_half, bias, row, column, width, half)
        _store_gelu(out, right_half, bias, row, column + half, width, half)


def gelu_product(
    x: Float[Tensor, "*batch K"], layer: torch.nn.Linear, activation: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*batch M"]:
    """Return activation(W x + b), x contiguous: in one kernel, if that is GELU and the device can.

    A device can from Hopper on: it fetches tiles by itself, and has room for three. For less than
    two of each multiprocessor, cuBLAS's smaller ones take less time.
    """
    if not _pays(x, layer, activation):
        return activation(layer(x))
    flat, weight = x.view(-1, layer.in_features), layer.weight
    rows, depth = flat.shape
    out = x.new_empty(*x.shape[:-1], len(weight))
    _gelu_product[(processors(x.device),)](
        TensorDescriptor.from_tensor(out.view(rows, -1), [TALL, BROAD // 2]),
        TensorDescriptor.from_tensor(flat, [TALL, DEEP]),
        TensorDescriptor.from_tensor(weight, [BROAD, DEEP]),
        layer.bias, rows, len(weight), depth,
        tall=TALL, broad=BROAD, deep=DEEP, group=GROUP, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out


def _pays(x: Tensor, layer: torch.nn.Linear, activation: Callable[[Tensor], Tensor]) -> bool:
    gelu = isinstance(activation, GELUActivation)  # the exact one
    aligned = layer.in_features % 8 == 0 and layer.out_features % 8 == 0  # 16 bytes
    fits = gelu and aligned and layer.bias is not None and x.element_size() == 2
    if not (fits and fetches_tiles(x.device)):
        return False
    rows = x.numel() // layer.in_features
    tiles = triton.cdiv(rows, TALL) * triton.cdiv(layer.out_features, BROAD)
    return bool(tiles >= ROUNDS * processors(x.device))
