"""Triton kernels for one token of a BART decoder: what PyTorch does in twenty launches a layer.

At batch 1 a token is some 270 launches of kernels that each take less time than a launch does; at
large batches the copies and masks between the matrix products take as long as these. Here a layer
is eight launches at batch 1 and eleven beyond. Sums are in float32; what is stored between the
kernels has the model's type, as in PyTorch, or is float32.

B: batch, H: heads, D: width of a head, C = H · D, S: tokens of the picture and the prompt, T:
cached positions, N: new tokens at most, V: words.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from elf.taggers.launching import begin_next, launch, power, wait, wait_for_last
from elf.taggers.product_kernels import normalized

PART, PARTS = 64, 128
"""Keys and values that a program reads at once, where it shares a row with others and where not."""

EARLY, EARLIER = 64, 128
"""Positions of a text's cache that a program reads before the new token is there; the latter where
there are at most `FEW` programs: more would lack the registers."""

FEW = 512

WORDS = 16384
"""Logits that a program compares at once: there is one program a row, and it waits for each lot."""

PROGRAMS = 256
"""With less, a device of some 130 multiprocessors is not busy."""


@triton.jit
@no_type_check
def _embed(
    out, tokens, position, words, places, weight, bias, width, scale, eps,
    block: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    wait_for_last(early)
    begin_next(early)  # later kernels of the token may read what was there before it
    row, at = tl.program_id(0), tl.arange(0, block)
    inside = at < width
    word = words + tl.load(tokens + row) * width + at
    place = places + tl.load(position) * width + at
    x = tl.load(word, mask=inside, other=0).to(tl.float32) * scale
    x += tl.load(place, mask=inside, other=0).to(tl.float32)
    y = normalized(x, weight, bias, at, inside, width, eps)
    tl.store(out + row * width + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _attend_to(query, key, value, there, most, total, context):
    """Go on with a softmax over further scores (Milakov and Gimelshein 2018, arXiv:1805.02867)."""
    scores = tl.sum(key.to(tl.float32) * query[None, :], 1)
    scores = tl.where(there, scores, float("-inf"))
    higher = tl.maximum(most, tl.max(scores, 0))
    shares = tl.exp(scores - higher)
    decay = tl.exp(most - higher)
    total = total * decay + tl.sum(shares, 0)
    context = context * decay + tl.sum(shares[:, None] * value.to(tl.float32), 0)
    return higher, total, context


@triton.jit
@no_type_check
def _attend(
    query, keys, values, first, count, d, inside, width, most, total, context, whole,
    block: tl.constexpr,
):  # fmt: skip
    for start in range(0, whole, block):
        t = first + start + tl.arange(0, block)
        places = t[:, None] * width + d[None, :]
        real = (t < count)[:, None] & inside[None, :]
        key = tl.load(keys + places, mask=real, other=0)
        value = tl.load(values + places, mask=real, other=0)
        most, total, context = _attend_to(query, key, value, t < count, most, total, context)
    return most, total, context


@triton.jit
@no_type_check
def _read_text(
    out, qkv, keys, values, position, heads, length, width, scale,
    early_block: tl.constexpr, block: tl.constexpr, columns: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    # The position and the tokens before it were there before the step's first kernel went on.
    program, now = tl.program_id(0), tl.load(position, volatile=True).to(tl.int32)
    row, head = program // heads, program % heads
    channels = heads * width
    d = tl.arange(0, columns)
    inside = d < width
    cache = program.to(tl.int64) * length * width
    t = tl.arange(0, early_block)
    places = cache + t[:, None] * width + d[None, :]
    there = (t < now)[:, None] & inside[None, :]
    old_key = tl.load(keys + places, mask=there, other=0)
    old_value = tl.load(values + places, mask=there, other=0)
    wait(early)
    new = qkv + row * 3 * channels + head * width + d
    query = tl.load(new, mask=inside, other=0).to(tl.float32) * scale
    key = tl.load(new + channels, mask=inside, other=0)
    value = tl.load(new + 2 * channels, mask=inside, other=0)
    tl.store(keys + cache + now * width + d, key, mask=inside)
    tl.store(values + cache + now * width + d, value, mask=inside)
    # It begins with the token itself, whose share is 1 until there are others.
    most = tl.sum(key.to(tl.float32) * query, 0)
    most, total, context = _attend_to(
        query, old_key, old_value, t < now, most, most * 0 + 1, value.to(tl.float32)
    )
    _, total, context = _attend(
        query, keys + cache, values + cache, early_block, now, d, inside, width,
        most, total, context, now - early_block, block,
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
    wait(early)
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
    wait(early)
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
    wait(early)
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
        block=power(width), **launch(words),
    )  # fmt: skip
    return out


def read_text(
    qkv: Float[Tensor, "B 3C"],
    cache: Float[Tensor, "2 B H T D"],
    position: Int64[Tensor, "1"],
    scale: float,
) -> Float[Tensor, "B C"]:
    """Put keys and values at their position in the cache; return what the queries read there.

    `embed` must have come first since the position and the cache were written: it waits for that.
    """
    _, batch, heads, length, width = cache.shape
    out = qkv.new_empty(batch, heads * width)
    _read_text[(batch * heads,)](
        out, qkv, cache[0], cache[1], position, heads, length, width, scale,
        early_block=min(power(length), EARLIER if batch * heads <= FEW else EARLY),
        block=min(power(length), PART), columns=power(width), **launch(qkv),
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
    block = min(power(source), PARTS if rows >= PROGRAMS else PART)
    most = triton.cdiv(source, block)
    # A few rows are read in parts, so that there is work for the whole device.
    count = most if rows * most <= PROGRAMS else max(1, PROGRAMS // rows)
    whole = triton.cdiv(most, count) * block
    count = triton.cdiv(source, whole)
    parts = cross.new_empty(rows * count * (width + 2), dtype=torch.float32)
    _read_picture[(rows, count)](
        out, parts, queries, bias, cross[0], cross[1], source, padded, heads, width, scale,
        count=queries.numel() // out.numel(), has_bias=bias is not None, whole=whole, block=block,
        columns=power(width), split=count > 1, **launch(cross),
    )  # fmt: skip
    if count > 1:
        _join[(rows,)](
            out, parts, count, width, many=power(count), columns=power(width), **launch(cross)
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
    block = min(power(vocabulary), WORDS)
    _choose[(len(tokens),)](
        logits, tokens, position, finished.view(torch.int8), output, forced, ends, pad, vocabulary,
        logits.stride(0), output.shape[1], has_forced=forced is not None, count=len(ends),
        few=power(max(1, len(ends))), whole=triton.cdiv(vocabulary, block) * block, block=block,
        num_warps=16, **launch(logits),
    )  # fmt: skip
