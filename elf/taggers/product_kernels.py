"""Triton kernels for products of matrices with a few rows, and the layer norms after them.

Sums are in float32. B: batch, C: channels, K: inputs, M: outputs, P: parts of a sum.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from elf.taggers.launching import is_roomy, launch, power, wait

WEIGHTS = 8192
"""Numbers of a matrix that one program multiplies with a row."""

ROWS = 64
"""Rows up to which `rows_product` is faster than cuBLAS, which is made for more."""

COLUMNS, DEPTH, DEEPER = 32, 128, 256
"""Outputs of a program of `rows_product`, and inputs that it multiplies at once.

More inputs where there are more than half as many rows and the device has room: of 64 rows and 32
columns, 256 inputs on their way three times over are 147 KB.
"""

PRODUCTS = 128
"""Programs that share a product; with less, its inputs are split too."""


@triton.jit
@no_type_check
def normalized(x, weight, bias, at, inside, width, eps):
    """Layer norm (Ba et al. 2016, arXiv:1607.06450) of a row in float32."""
    mean = tl.sum(x, 0) / width
    centred = tl.where(inside, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + at, mask=inside, other=0).to(tl.float32)
    return centred * scale * gain + tl.load(bias + at, mask=inside, other=0).to(tl.float32)


@triton.jit
@no_type_check
def _add_norm(out, x, residual, weight, bias, width, eps, block: tl.constexpr, early: tl.constexpr):
    wait(early)
    row, at = tl.program_id(0).to(tl.int64) * width, tl.arange(0, block)
    inside = at < width
    total = tl.load(x + row + at, mask=inside, other=0).to(tl.float32)
    total += tl.load(residual + row + at, mask=inside, other=0).to(tl.float32)
    y = normalized(total, weight, bias, at, inside, width, eps)
    tl.store(out + row + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _sum_norm(
    out, parts, offset, residual, weight, bias, width, eps,
    count: tl.constexpr, block: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, block)
    inside = at < width
    total = tl.load(offset + at, mask=inside, other=0).to(tl.float32)
    wait(early)
    row = tl.program_id(0) * width
    total += tl.load(residual + row + at, mask=inside, other=0).to(tl.float32)
    for part in tl.static_range(count):
        place = parts + part * tl.num_programs(0) * width + row + at
        total += tl.load(place, mask=inside, other=0)
    y = normalized(total, weight, bias, at, inside, width, eps)
    tl.store(out + row + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _rows_product(
    out, x, matrix, bias, count, depth, width, share, has_bias: tl.constexpr, gelu: tl.constexpr,
    whole: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
    early: tl.constexpr,
):  # fmt: skip
    """Multiply all rows with some columns of a matrix, over a share of the depth."""
    r, column = tl.arange(0, rows), tl.program_id(0) * columns + tl.arange(0, columns)
    part = tl.program_id(1)
    real, inside = r < count, column < width
    left, right = x + r[:, None] * depth, matrix + column[None, :].to(tl.int64) * depth
    total = tl.zeros((rows, columns), tl.float32)
    wait(early)
    for start in range(0, share, block):
        k = part * share + start + tl.arange(0, block)
        there = k < depth
        a = tl.load(left + k[None, :], mask=real[:, None] & there[None, :], other=0)
        b = tl.load(right + k[:, None], mask=there[:, None] & inside[None, :], other=0)
        total = tl.dot(a, b, total)
    if has_bias:
        total += tl.load(bias + column, mask=inside, other=0).to(tl.float32)[None, :]
    if gelu:
        total = 0.5 * total * (1 + tl.math.erf(total * 0.7071067811865476))
    place = out + r[:, None] * width + column[None, :]
    if not whole:
        place += part * count * width
    tl.store(place, total.to(out.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
@no_type_check
def _vector_product(
    out, x, matrix, bias, residual, weight, offset, normed, depth, width, eps,
    has_bias: tl.constexpr, has_residual: tl.constexpr, norm: tl.constexpr, gelu: tl.constexpr,
    columns: tl.constexpr, block: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    column, at = tl.program_id(0) * columns + tl.arange(0, columns), tl.arange(0, block)
    real, inside = column < width, at < depth
    part = matrix + column[:, None].to(tl.int64) * depth + at[None, :]
    rows = tl.load(part, mask=real[:, None] & inside[None, :], other=0)  # before x is there
    wait(early)
    y = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if norm:
        y = normalized(y, weight, offset, at, inside, depth, eps).to(normed.dtype.element_ty)
        tl.store(normed + at, y, mask=inside & (tl.program_id(0) == 0))
        y = y.to(tl.float32)
    total = tl.sum(rows.to(tl.float32) * y[None, :], 1)
    if has_bias:
        total += tl.load(bias + column, mask=real, other=0).to(tl.float32)
    if gelu:
        total = 0.5 * total * (1 + tl.math.erf(total * 0.7071067811865476))
    if has_residual:
        total += tl.load(residual + column, mask=real, other=0).to(tl.float32)
    tl.store(out + column, total.to(out.dtype.element_ty), mask=real)


def add_norm(
    x: Float[Tensor, "*batch C"], residual: Float[Tensor, "*batch C"], norm: torch.nn.LayerNorm
) -> Float[Tensor, "*batch C"]:
    """Return the layer norm of a sum; both are contiguous."""
    width = x.shape[-1]
    out, block = torch.empty_like(x), power(width)
    _add_norm[(x.numel() // width,)](
        out, x, residual, norm.weight, norm.bias, width, norm.eps, block=block,
        num_warps=4 if block <= 2048 else 8, **launch(x),
    )  # fmt: skip
    return out


def rows_product(
    x: Float[Tensor, "B K"],
    matrix: Float[Tensor, "M K"],
    bias: Float[Tensor, " M"] | None = None,
    gelu: bool = False,
) -> Float[Tensor, "B M"]:
    """Return W x + b for a few rows of a 16-bit type, with GELU after it if that is asked for."""
    out = x.new_empty(len(x), len(matrix))
    _multiply_rows(out, x, matrix, bias, gelu, 1)
    return out


def product_parts(x: Float[Tensor, "B K"], matrix: Float[Tensor, "M K"]) -> Float[Tensor, "P B M"]:
    """Return float32 parts whose sum is W x, for a few rows of a 16-bit type.

    A product with few columns would leave most of the device idle; so its sums are split too.
    """
    (width, depth), block = matrix.shape, _block(x)
    parts = min(max(1, PRODUCTS // triton.cdiv(width, COLUMNS)), triton.cdiv(depth, block))
    parts = triton.cdiv(depth, triton.cdiv(depth, parts * block) * block)  # none is empty
    out = x.new_empty(parts, len(x), width, dtype=torch.float32)
    _multiply_rows(out, x, matrix, None, False, parts)
    return out


def _block(x: Tensor) -> int:
    return DEEPER if len(x) > ROWS // 2 and is_roomy(x.device) else DEPTH


def _multiply_rows(
    out: Tensor, x: Tensor, matrix: Tensor, bias: Tensor | None, gelu: bool, parts: int
) -> None:
    (width, depth), block = matrix.shape, _block(x)
    _rows_product[(triton.cdiv(width, COLUMNS), parts)](
        out, x, matrix, bias, len(x), depth, width, triton.cdiv(depth, parts * block) * block,
        has_bias=bias is not None, gelu=gelu, whole=parts == 1, rows=max(16, power(len(x))),
        columns=COLUMNS, block=block, num_stages=4, **launch(x),
    )  # fmt: skip


def sum_norm(
    parts: Float[Tensor, "P B C"],
    bias: Float[Tensor, " C"],
    residual: Float[Tensor, "B C"],
    norm: torch.nn.LayerNorm,
) -> Float[Tensor, "B C"]:
    """Return the layer norm of the sum of a product's parts, its bias and a residual."""
    count, rows, width = parts.shape
    out = torch.empty_like(residual)
    _sum_norm[(rows,)](
        out, parts, bias, residual, norm.weight, norm.bias, width, norm.eps,
        count=count, block=power(width), **launch(parts),
    )  # fmt: skip
    return out


def vector_product(
    x: Float[Tensor, "1 K"],
    matrix: Float[Tensor, "M K"],
    bias: Float[Tensor, " M"] | None = None,
    residual: Float[Tensor, "1 M"] | None = None,
    norm: torch.nn.LayerNorm | None = None,
    gelu: bool = False,
) -> tuple[Float[Tensor, "1 M"], Float[Tensor, "1 K"]]:
    """Return a product with one row, W x + b, and the row that was multiplied.

    Args:
        x: The row.
        matrix: W.
        bias: b.
        residual: Added at the end.
        norm: Applied to the row before.
        gelu: Applied to the product before the residual is added.
    """
    width, depth = matrix.shape
    block = power(depth)
    columns = max(1, WEIGHTS // block)
    out, normed = x.new_empty(1, width), torch.empty_like(x) if norm else x
    _vector_product[(triton.cdiv(width, columns),)](
        out, x, matrix, bias, residual, norm and norm.weight, norm and norm.bias, normed,
        depth, width, norm.eps if norm else 0.0,
        has_bias=bias is not None, has_residual=residual is not None, norm=norm is not None,
        gelu=gelu, columns=columns, block=block, num_warps=4 if block <= 1024 else 8,
        **launch(x),
    )  # fmt: skip
    return out, normed
