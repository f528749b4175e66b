"""Triton kernels for one token of a BART decoder: what PyTorch does in twenty launches a layer.

At batch 1 a token is some 270 launches of kernels that each take less time than a launch does; at
large batches the copies and masks between the matrix products take as long as these. Here a layer
is eight launches at batch 1 and eleven beyond. Sums are in float32; what is stored between the
kernels has the model's type, as in PyTorch, or is float32.

Where the device can (Hopper and later), a kernel is launched before its forerunner has ended, and
waits for it by itself: each begins with `_wait`.

B: batch, H: heads, D: width of a head, C = H · D, S: tokens of the picture and the prompt, T:
cached positions, N: new tokens at most, V: words.
"""

import functools
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int64
from torch import Tensor

WEIGHTS = 8192
"""Numbers of a matrix that one program multiplies with a row."""

PART, PARTS = 64, 128
"""Keys and values that a program reads at once, where it shares a row with others and where not."""

PROGRAMS = 256
"""With less, a device of some 130 multiprocessors is not busy."""

ROWS = 64
"""Rows up to which `rows_product` is faster than cuBLAS, which is made for more."""

COLUMNS, DEPTH = 32, 128
"""Outputs of a program of `rows_product`, and inputs that it multiplies at once."""

PRODUCTS = 128
"""Programs that share a product; with less, its inputs are split too."""


@triton.jit
@no_type_check
def _wait(early: tl.constexpr):
    """Let the next kernel begin, and wait for the end of the last one, whose output is read."""
    if early:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
@no_type_check
def _normalized(x, weight, bias, at, inside, width, eps):
    """Layer norm (Ba et al. 2016, arXiv:1607.06450) of a row in float32."""
    mean = tl.sum(x, 0) / width
    centred = tl.where(inside, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + at, mask=inside, other=0).to(tl.float32)
    return centred * scale * gain + tl.load(bias + at, mask=inside, other=0).to(tl.float32)


@triton.jit
@no_type_check
def _add_norm(out, x, residual, weight, bias, width, eps, block: tl.constexpr, early: tl.constexpr):
    _wait(early)
    row, at = tl.program_id(0).to(tl.int64) * width, tl.arange(0, block)
    inside = at < width
    total = tl.load(x + row + at, mask=inside, other=0).to(tl.float32)
    total += tl.load(residual + row + at, mask=inside, other=0).to(tl.float32)
    y = _normalized(total, weight, bias, at, inside, width, eps)
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
    _wait(early)
    row = tl.program_id(0) * width
    total += tl.load(residual + row + at, mask=inside, other=0).to(tl.float32)
    for part in tl.static_range(count):
        place = parts + part * tl.num_programs(0) * width + row + at
        total += tl.load(place, mask=inside, other=0)
    y = _normalized(total, weight, bias, at, inside, width, eps)
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
    _wait(early)
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
def _embed(
    out, tokens, position, words, places, weight, bias, width, scale, eps,
    block: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    _wait(early)
    row, at = tl.program_id(0), tl.arange(0, block)
    inside = at < width
    word = words + tl.load(tokens + row) * width + at
    place = places + tl.load(position) * width + at
    x = tl.load(word, mask=inside, other=0).to(tl.float32) * scale
    x += tl.load(place, mask=inside, other=0).to(tl.float32)
    y = _normalized(x, weight, bias, at, inside, width, eps)
    tl.store(out + row * width + at, y.to(out.dtype.element_ty), mask=inside)


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
    _wait(early)
    y = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if norm:
        y = _normalized(y, weight, offset, at, inside, depth, eps).to(normed.dtype.element_ty)
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


@triton.jit
@no_type_check
def _attend(
    query, keys, values, first, count, d, inside, width, most, total, context, whole,
    block: tl.constexpr,
):  # fmt: skip
    """Go on with a softmax over further scores (Milakov and Gimelshein 2018, arXiv:1805.02867)."""
    for start in range(0, whole, block):
        t = first + start + tl.arange(0, block)
        places = t[:, None] * width + d[None, :]
        real = (t < count)[:, None] & inside[None, :]
        key = tl.load(keys + places, mask=real, other=0)
        value = tl.load(values + places, mask=real, other=0)
        scores = tl.sum(key.to(tl.float32) * query[None, :], 1)
        scores = tl.where(t < count, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 0))
        shares = tl.exp(scores - higher)
        decay = tl.exp(most - higher)
        total = total * decay + tl.sum(shares, 0)
        context = context * decay + tl.sum(shares[:, None] * value.to(tl.float32), 0)
        most = higher
    return most, total, context


@triton.jit
@no_type_check
def _read_text(
    out, qkv, keys, values, position, heads, length, width, scale,
    block: tl.constexpr, columns: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    _wait(early)
    program, now = tl.program_id(0), tl.load(position).to(tl.int32)
    row, head = program // heads, program % heads
    channels = heads * width
    d = tl.arange(0, columns)
    inside = d < width
    new = qkv + row * 3 * channels + head * width + d
    query = tl.load(new, mask=inside, other=0).to(tl.float32) * scale
    key = tl.load(new + channels, mask=inside, other=0)
    value = tl.load(new + 2 * channels, mask=inside, other=0)
    cache = program.to(tl.int64) * length * width
    tl.store(keys + cache + now * width + d, key, mask=inside)
    tl.store(values + cache + now * width + d, value, mask=inside)
    # It begins with the token itself, whose share is 1 until there are others.
    most = tl.sum(key.to(tl.float32) * query, 0)
    _, total, context = _attend(
        query, keys + cache, values + cache, 0, now, d, inside, width,
        most, most * 0 + 1, value.to(tl.float32), now, block,
    )  # fmt: skip
    result = (context / total).to(out.dtype.element_ty)
    tl.store(out + row * channels + head * width + d, result, mask=inside)


@triton.jit
@no_type_check
def _read_picture(
    out, parts, queries, bias, keys, values, source, padded, heads, width, scale,
    count: tl.constexpr, has_bias: tl.constexpr, whole: tl.constexpr, block: tl.constexpr,
    columns: tl.constexpr, split: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    program, part = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, columns)
    inside = d < width
    query = tl.zeros((columns,), tl.float32)
    if has_bias:
        query += tl.load(bias + program % heads * width + d, mask=inside, other=0).to(tl.float32)
    _wait(early)
    for number in tl.static_range(count):
        place = queries + (number * tl.num_programs(0) + program) * width
        query += tl.load(place + d, mask=inside, other=0).to(tl.float32)
    query *= scale
    cache = program.to(tl.int64) * padded * width
    nothing = tl.sum(query * 0, 0)
    most, total, context = _attend(
        query, keys + cache, values + cache, part * whole, source, d, inside, width,
        nothing + float("-inf"), nothing, query * 0, whole, block,
    )  # fmt: skip
    if split:
        into = parts + (program * tl.num_programs(1) + part) * (width + 2)
        tl.store(into + d, context, mask=inside)
        tl.store(into + width, most)
        tl.store(into + width + 1, total)
    else:
        result = (context / total).to(out.dtype.element_ty)
        tl.store(out + program * width + d, result, mask=inside)


@triton.jit
@no_type_check
def _join(out, parts, count, width, many: tl.constexpr, columns: tl.constexpr, early: tl.constexpr):
    _wait(early)
    program, d, p = tl.program_id(0), tl.arange(0, columns), tl.arange(0, many)
    at = parts + (program * count + p) * (width + 2)
    real = p < count
    most = tl.load(at + width, mask=real, other=float("-inf"))
    weight = tl.exp(most - tl.max(most, 0))
    total = tl.sum(weight * tl.load(at + width + 1, mask=real, other=0), 0)
    inside = real[:, None] & (d < width)[None, :]
    context = tl.load(at[:, None] + d[None, :], mask=inside, other=0)
    result = tl.sum(context * (weight / total)[:, None], 0)
    tl.store(out + program * width + d, result.to(out.dtype.element_ty), mask=d < width)


@triton.jit
@no_type_check
def _choose(
    logits, tokens, position, finished, output, forced, ends, pad, vocabulary, stride, length,
    has_forced: tl.constexpr, count: tl.constexpr, few: tl.constexpr,
    whole: tl.constexpr, block: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    _wait(early)
    row, now = tl.program_id(0), tl.load(position)
    at = tl.arange(0, block)
    best = tl.full((block,), float("-inf"), tl.float32)
    where = tl.zeros((block,), tl.int32)
    for start in range(0, whole, block):
        word = start + at
        place = logits + row.to(tl.int64) * stride + word
        score = tl.load(place, mask=word < vocabulary, other=float("-inf")).to(tl.float32)
        better = score > best
        best, where = tl.where(better, score, best), tl.where(better, word, where)
    # of equal ones the first, as torch.argmax has it
    token = tl.min(tl.where(best == tl.max(best, 0), where, vocabulary), 0).to(tl.int64)
    if has_forced:
        wanted = tl.load(forced + now)
        token = tl.where(wanted >= 0, wanted, token)
    done = tl.load(finished + row)
    token = tl.where(done != 0, pad, token)
    if count:
        e = tl.arange(0, few)
        end = tl.load(ends + e, mask=e < count, other=-1)
        hits = tl.sum((end == token).to(tl.int32), 0)
        tl.store(finished + row, (done != 0) | (hits > 0))
    tl.store(tokens + row, token)
    tl.store(output + row * length + now, token)


def _power(count: int) -> int:
    return triton.next_power_of_2(count)  # type: ignore[no-any-return]


@functools.cache
def _is_early(device: torch.device) -> bool:
    """Whether kernels can be launched before their forerunners have ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def _launch(like: Tensor) -> dict[str, bool]:
    """Return the options of a launch that `_wait` stands for."""
    early = _is_early(like.device)
    return {"early": early, "launch_pdl": early}


def embed(
    tokens: Int64[Tensor, " B"],
    position: Int64[Tensor, "1"],
    words: Float[Tensor, "V C"],
    places: Float[Tensor, "N C"],
    norm: torch.nn.LayerNorm,
    scale: float,
) -> Float[Tensor, "B C"]:
    """Return normalized sums of the words' embeddings, scaled, and the position's."""
    width = words.shape[1]
    out = words.new_empty(len(tokens), width)
    _embed[(len(tokens),)](
        out, tokens, position, words, places, norm.weight, norm.bias, width, scale, norm.eps,
        block=_power(width), **_launch(words),
    )  # fmt: skip
    return out


def add_norm(
    x: Float[Tensor, "*batch C"], residual: Float[Tensor, "*batch C"], norm: torch.nn.LayerNorm
) -> Float[Tensor, "*batch C"]:
    """Return the layer norm of a sum; both are contiguous."""
    width = x.shape[-1]
    out, block = torch.empty_like(x), _power(width)
    _add_norm[(x.numel() // width,)](
        out, x, residual, norm.weight, norm.bias, width, norm.eps, block=block,
        num_warps=4 if block <= 2048 else 8, **_launch(x),
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
    width, depth = matrix.shape
    parts = min(max(1, PRODUCTS // triton.cdiv(width, COLUMNS)), triton.cdiv(depth, DEPTH))
    parts = triton.cdiv(depth, triton.cdiv(depth, parts * DEPTH) * DEPTH)  # none is empty
    out = x.new_empty(parts, len(x), width, dtype=torch.float32)
    _multiply_rows(out, x, matrix, None, False, parts)
    return out


def _multiply_rows(
    out: Tensor, x: Tensor, matrix: Tensor, bias: Tensor | None, gelu: bool, parts: int
) -> None:
    width, depth = matrix.shape
    _rows_product[(triton.cdiv(width, COLUMNS), parts)](
        out, x, matrix, bias, len(x), depth, width, triton.cdiv(depth, parts * DEPTH) * DEPTH,
        has_bias=bias is not None, gelu=gelu, whole=parts == 1, rows=max(16, _power(len(x))),
        columns=COLUMNS, block=DEPTH, num_stages=4, **_launch(x),
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
        count=count, block=_power(width), **_launch(parts),
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
    block = _power(depth)
    columns = max(1, WEIGHTS // block)
    out, normed = x.new_empty(1, width), torch.empty_like(x) if norm else x
    _vector_product[(triton.cdiv(width, columns),)](
        out, x, matrix, bias, residual, norm and norm.weight, norm and norm.bias, normed,
        depth, width, norm.eps if norm else 0.0,
        has_bias=bias is not None, has_residual=residual is not None, norm=norm is not None,
        gelu=gelu, columns=columns, block=block, num_warps=4 if block <= 1024 else 8,
        **_launch(x),
    )  # fmt: skip
    return out, normed


def read_text(
    qkv: Float[Tensor, "B 3C"],
    cache: Float[Tensor, "2 B H T D"],
    position: Int64[Tensor, "1"],
    scale: float,
) -> Float[Tensor, "B C"]:
    """Put keys and values at their position in the cache; return what the queries read there."""
    _, batch, heads, length, width = cache.shape
    out = qkv.new_empty(batch, heads * width)
    _read_text[(batch * heads,)](
        out, qkv, cache[0], cache[1], position, heads, length, width, scale,
        block=min(_power(length), PART), columns=_power(width), **_launch(qkv),
    )  # fmt: skip
    return out


def read_picture(
    queries: Float[Tensor, "B C"] | Float[Tensor, "P B C"],
    cross: Float[Tensor, "2 B H S D"],
    source: int,
    scale: float,
    bias: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, "B C"]:
    """Return what queries read in the first ``source`` keys and values.

    Args:
        queries: They, or the parts of a product that they are the sum of.
        cross: Keys and values.
        source: How many there are.
        scale: Of the scores.
        bias: Added to the queries.
    """
    _, batch, heads, padded, width = cross.shape
    out = cross.new_empty(batch, heads * width)
    rows = batch * heads
    block = min(_power(source), PARTS if rows >= PROGRAMS else PART)
    most = triton.cdiv(source, block)
    # A few rows are read in parts, so that there is work for the whole device.
    count = most if rows * most <= PROGRAMS else max(1, PROGRAMS // rows)
    whole = triton.cdiv(most, count) * block
    count = triton.cdiv(source, whole)
    parts = cross.new_empty(rows * count * (width + 2), dtype=torch.float32)
    _read_picture[(rows, count)](
        out, parts, queries, bias, cross[0], cross[1], source, padded, heads, width, scale,
        count=queries.numel() // out.numel(), has_bias=bias is not None, whole=whole, block=block,
        columns=_power(width), split=count > 1, **_launch(cross),
    )  # fmt: skip
    if count > 1:
        _join[(rows,)](
            out, parts, count, width, many=_power(count), columns=_power(width), **_launch(cross)
        )
    return out


def choose(
    logits: Float[Tensor, "B V"],
    tokens: Int64[Tensor, " B"],
    position: Int64[Tensor, "1"],
    finished: Bool[Tensor, " B"],
    output: Int64[Tensor, "B N"],
    forced: Int64[Tensor, " N"] | None,
    ends: Int64[Tensor, " E"],
    pad: int,
) -> None:
    """Write each text's next token to ``tokens`` and ``output``, and whether it ends it.

    Args:
        logits: Of the words; its rows may lie further apart than their length.
        tokens: The last tokens; overwritten.
        position: Where in the output.
        finished: Texts that have ended get the padding; overwritten.
        output: All tokens so far.
        forced: What a token is at each position; -1 leaves it to the logits.
        ends: Tokens that end a text.
        pad: What follows the end.
    """
    vocabulary = logits.shape[1]
    block = min(_power(vocabulary), 4096)
    _choose[(len(tokens),)](
        logits, tokens, position, finished.view(torch.int8), output, forced, ends, pad, vocabulary,
        logits.stride(0), output.shape[1], has_forced=forced is not None, count=len(ends),
        few=_power(max(1, len(ends))), whole=triton.cdiv(vocabulary, block) * block, block=block,
        num_warps=8, **_launch(logits),
    )  # fmt: skip
