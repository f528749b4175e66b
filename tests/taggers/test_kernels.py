"""Triton's kernels on a CPU, by its interpreter, beside the PyTorch that they stand for."""

import runpy

import pytest
import torch
from transformers.activations import GELUActivation

from elf.taggers.decoding import FastDecoder
from elf.taggers.florence_encoder import Encoder
from elf.taggers.florence_step import Greedy, TokenStep

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU", allow_module_level=True)

from elf.taggers import (
    channel_kernels,
    florence_encoder,
    florence_kernel_step,
    gelu_kernels,
    source_kernels,
    token_kernels,
)
from elf.taggers.florence_kernel_step import KernelStep
from elf.taggers.picture_kernels import attend_within
from elf.taggers.product_kernels import product_parts, rows_product, sum_norm, vector_product
from elf.taggers.source_kernels import can_read_source, read_source
from elf.taggers.token_kernels import choose, read_picture

BENCHMARK = runpy.run_path("benchmarks/captions.py")
SIZES = {
    "padded": BENCHMARK["SMALL"],  # its windows do not fill its pictures
    "filled": BENCHMARK["SMALL"]
    | {"side": 72, "embed_dim": (16, 24), "depths": (1, 1), "num_heads": (2, 2), "window_size": 9},
}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2}


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return SIZES[request.param]


def near(ours, theirs):
    limit = TOLERANCE[theirs.dtype]
    torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit)


def norm(width):
    layer = torch.nn.LayerNorm(width)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer.requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
@torch.inference_mode()
def test_the_vision_tower(size, dtype):
    model = BENCHMARK["random_model"](size, seed=1).to(dtype)
    for parameter in model.model.vision_tower.parameters():  # biases too, which start as zeros
        parameter += 0.1 * torch.randn_like(parameter)
    prompt, pixels = BENCHMARK["make_prompt"](size), BENCHMARK["make_pixels"](size, 2).to(dtype)
    ours, theirs = (Encoder(model, prompt, kernels)._tower(pixels) for kernels in (True, False))
    near(ours, theirs)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.inference_mode()
def test_tokens_and_what_they_leave_behind(dtype, count):
    compare_steps(SIZES["padded"], dtype, count)


@torch.inference_mode()
def test_tokens_without_keys_and_values_of_the_picture(monkeypatch):
    monkeypatch.setattr(florence_kernel_step, "SOURCE", 3)
    states = compare_steps(SIZES["padded"] | {"width": 48, "heads": 3}, torch.float16, 3)
    assert [state.cross.dim() for state in states] == [6, 3]


def compare_steps(size, dtype, count):
    length = 6
    model = BENCHMARK["random_model"](size, seed=1).to(dtype)
    ends = BENCHMARK["generate"](
        model, BENCHMARK["make_prompt"](size), BENCHMARK["make_pixels"](size, 3).to(dtype), length
    )[0, 3:5].tolist()
    greedy = Greedy(start=2, ends=tuple(ends), pad=1, first=7, last=9, length=length)
    encoded = torch.randn(count, 15, size["width"], dtype=dtype)
    states = []
    for step in (TokenStep(model, greedy), KernelStep(model, greedy)):
        state = step.state(count, 15)
        step.look(state, encoded)
        state.restart(count, greedy)
        state.finished[-1] = count > 1  # a row that was only padding
        for _ in range(length):
            step(state, step.prefixes[-1])
        states.append(state)
    theirs, ours = states
    assert torch.equal(ours.output, theirs.output)
    assert len(theirs.output.unique()) > 3
    assert torch.equal(ours.finished, theirs.finished)
    assert ours.position.item() == length
    near(ours.cache[:, :, :, :, :length], theirs.cache[:, :, :, :, :length])
    return states


def test_the_first_of_equal_logits_is_taken():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0, 9.0], [3.0, 3.0, 3.0, 3.0, 9.0]])
    tokens, output = torch.zeros(2, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)
    choose(
        logits[:, :4], tokens, torch.zeros(1, dtype=torch.long), torch.zeros(2, dtype=torch.bool),
        output, None, torch.zeros(0, dtype=torch.long), 1,
    )  # fmt: skip
    assert tokens.tolist() == [1, 0] == output[:, 0].tolist()


def in_one_kernel(monkeypatch, programs):
    monkeypatch.setattr(gelu_kernels, "fetches_tiles", lambda device: True)
    monkeypatch.setattr(gelu_kernels, "processors", lambda device: programs)
    monkeypatch.setattr(gelu_kernels, "ROUNDS", 0)


@pytest.mark.parametrize(("rows", "depth", "width"), [(300, 72, 520), (128, 64, 256), (5, 8, 24)])
@pytest.mark.parametrize("programs", [2, 132])
@torch.inference_mode()
def test_gelu_within_a_product(rows, depth, width, programs, monkeypatch):
    in_one_kernel(monkeypatch, programs)
    draw = torch.Generator().manual_seed(rows)
    layer = torch.nn.Linear(depth, width).half()
    x = 3 * torch.randn(rows, depth, generator=draw).half()
    near(gelu_kernels.gelu_product(x, layer, GELUActivation()), torch.nn.functional.gelu(layer(x)))
    relu = torch.nn.ReLU()
    assert torch.equal(gelu_kernels.gelu_product(x, layer, relu), relu(layer(x)))


@pytest.mark.parametrize("length", [9, 49, 64, 144, 196])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.inference_mode()
def test_attention_within_windows(dtype, length):
    windows, heads, width = 2, 3, 16
    draw = torch.Generator().manual_seed(length)
    qkv = torch.randn(windows, length, 3 * heads * width, generator=draw).to(dtype)
    split = qkv.view(windows, length, 3, heads, width).permute(2, 0, 3, 1, 4)
    theirs = torch.nn.functional.scaled_dot_product_attention(*split, scale=0.3)
    near(attend_within(qkv, heads, 0.3), theirs.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("programs", [2, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.inference_mode()
def test_attention_between_channels(dtype, programs, monkeypatch):
    monkeypatch.setattr(channel_kernels, "PROGRAMS", programs)
    channels, groups = 96, 3
    assert channel_kernels.can_mix(channels, groups)
    torch.manual_seed(0)
    project = torch.nn.Linear(channels, 3 * channels).to(dtype)
    weight = torch.nn.Linear(channels, channels).to(dtype).weight
    qkv = project(4 * torch.randn(2, 150, channels).to(dtype))
    ours, theirs = (
        module.channel_mix(qkv, groups, weight) for module in (channel_kernels, florence_encoder)
    )
    near(ours, theirs)


@torch.inference_mode()
def test_gelu_is_within_its_bound_everywhere(monkeypatch):
    in_one_kernel(monkeypatch, 3)
    x = torch.zeros(2048, 8)
    x[:, 0] = torch.cat([torch.linspace(-6, 6, 2046), torch.tensor([-60000.0, 60000.0])])
    layer = torch.nn.Linear(8, 8).half()
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[0, 0] = 1
    ours = gelu_kernels.gelu_product(x.half(), layer, GELUActivation())[:, 0].double()
    theirs = torch.nn.functional.gelu(x[:, 0].half().double())
    rounding = torch.maximum(theirs.abs(), torch.tensor(2.0**-14)) * 2.0**-11
    assert ((ours - theirs).abs() <= 2.1e-5 + rounding).all()


@pytest.mark.parametrize("depth", [40, 1500, 9000])
@torch.inference_mode()
def test_a_product_with_one_row(depth):
    draw = torch.Generator().manual_seed(depth)
    x, matrix, bias, residual = (
        torch.randn(shape, generator=draw) for shape in ((1, depth), (21, depth), (21,), (1, 21))
    )
    matrix *= depth**-0.5  # sums of the size of their bias, whose rounding the limit is for
    ours, same = vector_product(x, matrix, bias, residual, gelu=True)
    layer = torch.nn.functional.linear(x, matrix, bias)
    near(ours, torch.nn.functional.gelu(layer) + residual)
    assert torch.equal(same, x)
    normed = norm(depth)
    ours, row = vector_product(x, matrix, norm=normed)
    near(row, normed(x))
    near(ours, normed(x) @ matrix.T)


@pytest.mark.parametrize(("rows", "depth"), [(2, 40), (17, 300), (64, 128), (3, 513)])
@torch.inference_mode()
def test_products_with_few_rows(rows, depth):
    """Whole, and in parts that a norm sums up."""
    draw = torch.Generator().manual_seed(depth)
    x, matrix, bias, residual = (
        torch.randn(shape, generator=draw).half()
        for shape in ((rows, depth), (50, depth), (50,), (rows, 50))
    )
    matrix *= depth**-0.5
    exact = x.float() @ matrix.float().T + bias.float()
    near(rows_product(x, matrix, bias), exact.half())
    near(rows_product(x, matrix, bias, gelu=True), torch.nn.functional.gelu(exact).half())
    parts = product_parts(x, matrix)
    assert parts.shape == (-(-depth // 128), rows, 50)
    near(parts.sum(0) + bias, exact)
    layer = norm(50)
    near(sum_norm(parts, bias, residual, layer.half()), layer.float()(exact + residual).half())


@pytest.mark.parametrize("seed", range(3))
@torch.inference_mode()
def test_reading_a_picture_of_any_length(seed, monkeypatch):
    """In one part or some, with a padding that must not be read."""
    draw = torch.Generator().manual_seed(seed)
    source, heads, width = (int(torch.randint(1, most, (), generator=draw)) for most in (700, 4, 9))
    batch = 2
    if seed == 2:  # as many programs as there are rows
        monkeypatch.setattr(token_kernels, "PROGRAMS", batch * heads)
    padded = source + 3
    cross = torch.randn(2, batch, heads, padded, width, generator=draw)
    cross[:, :, :, source:] = torch.nan
    queries = torch.randn(batch, heads * width, generator=draw)
    ours = read_picture(queries, cross, source, 0.3)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        queries.view(batch, heads, 1, width), *cross[:, :, :, :source].unbind(0), scale=0.3
    )
    near(ours, theirs.view_as(queries))


@pytest.mark.parametrize(
    ("batch", "source", "heads", "width", "parts"),
    [
        (2, 70, 4, 16, 1),
        (3, 33, 3, 16, 3),
        (17, 16, 1, 64, 1),
        (2, 1, 16, 64, 4),
        (1, 50, 5, 32, 2),
    ],
)
@torch.inference_mode()
def test_reading_a_picture_without_keys_and_values(batch, source, heads, width, parts, monkeypatch):
    """In one part or some, with channels that are a power of two or not."""
    assert can_read_source(heads, width, torch.float16)
    monkeypatch.setattr(source_kernels, "PROGRAMS", batch * parts)
    draw = torch.Generator().manual_seed(source)
    channels = heads * width
    states = torch.randn(batch, source + 5, channels, generator=draw).half()
    states[:, source:] = torch.nan
    queries = torch.randn(2, batch, channels, generator=draw)
    bias = torch.randn(channels, generator=draw).half()
    keys, values = torch.nn.Linear(channels, channels), torch.nn.Linear(channels, channels)
    split = (batch, -1, heads, width)
    query = (queries.sum(0) + bias).view(split)
    read = states[:, :source].float()
    exact = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, keys(read).view(split), values(read).view(split))),
        scale=0.3,
    )
    ours = read_source(queries, states, source, keys.weight.half(), values.half(), heads, 0.3, bias)
    near(ours, exact.transpose(1, 2).reshape(batch, channels).half())
    summed = (queries.sum(0) + bias).half()
    same = read_source(summed, states, source, keys.weight.half(), values, heads, 0.3)
    near(same, ours)


@pytest.mark.parametrize(
    ("heads", "width", "dtype"),
    [(17, 16, torch.float16), (4, 12, torch.float16), (4, 8, torch.float16), (16, 128, torch.half),
     (4, 16, torch.float32)],
)  # fmt: skip
def test_other_pictures_are_read_by_keys_and_values(heads, width, dtype):
    assert not can_read_source(heads, width, dtype)


def test_without_a_compiler_for_the_kernels(monkeypatch):
    model = BENCHMARK["random_model"](SIZES["padded"], seed=1)
    prompt = BENCHMARK["make_prompt"](SIZES["padded"])
    pixels = BENCHMARK["make_pixels"](SIZES["padded"], 2)
    decoder = FastDecoder(model, prompt, 8)

    def fail(*_):
        raise RuntimeError("Failed to find\nC compiler")

    decoder._kernels = True
    monkeypatch.setattr(decoder._encoder, "_tower", fail)
    with pytest.warns(UserWarning, match="without Triton kernels, slower: Failed to find C comp"):
        tokens = decoder(pixels)
    assert torch.equal(tokens, BENCHMARK["generate"](model, prompt, pixels, 8))
    decoder(pixels[:1])  # and says it once
