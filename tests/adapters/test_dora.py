"""DoRA's closed form against its definition, built: norms, outputs, what is never divided by."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from elf.adapters import dora

SHAPES = [(12, 8), (8, 12), (12, 8, 1, 1), (6, 10, 3, 3)]


def draw(shape: tuple[int, ...], rank: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    sizes = (shape, (rank, *shape[1:]), (shape[0], rank))
    w, a, b = (torch.randn(size, generator=random, dtype=torch.float64) for size in sizes)
    return w, a, b


def of_one(w: Tensor, a: Tensor, b: Tensor, scale: float, axis: dora.Axis) -> Tensor:
    base = dora.norm_squared(w, axis)
    return dora.norms(base[None], dora.overlap(w, a, b, axis)[None], a[None], b[None], scale, axis)[
        0
    ]


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("scale", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_closed_form_is_the_norm_of_the_sum(
    shape: tuple[int, ...], scale: float, axis: dora.Axis
) -> None:
    w, a, b = draw(shape)
    whole = w + scale * torch.einsum("or,r...->o...", b, a)
    dimensions = [d for d in range(w.dim()) if d != (0 if axis == "output" else 1)]
    expected = whole.square().sum(dimensions).sqrt()
    torch.testing.assert_close(of_one(w, a, b, scale, axis), expected, rtol=1e-14, atol=0)


def test_it_holds_for_updates_as_small_and_as_large_as_they_get() -> None:
    w, a, b = draw((64, 48))
    for size in (1e-6, 1e-3, 1e3):
        expected = (w + size * b @ a).norm(dim=1)
        found = of_one(w, a, size * b, 1.0, "output")
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_half_precision_is_measured_in_float32(axis: dora.Axis) -> None:
    w, a, b = draw((48, 32))
    half = of_one(w.half(), a.float(), b.float(), 0.5, axis)
    assert half.dtype == torch.float32
    whole = of_one(w.half().double(), a, b, 0.5, axis)
    torch.testing.assert_close(half.double(), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_layers_of_one_shape_are_measured_together_as_alone(axis: dora.Axis) -> None:
    w, a, b = draw((12, 8))
    pairs = [(w, a, b), (2 * w, -a, b), (w.flip(0), a, b.flip(1))]
    shared = torch.stack([dora.overlap(*pair, axis) for pair in pairs])
    base = torch.stack([dora.norm_squared(pair[0], axis) for pair in pairs])
    together = dora.norms(
        base, shared, *(torch.stack(x) for x in list(zip(*pairs, strict=True))[1:]), 0.5, axis
    )
    for found, pair in zip(together, pairs, strict=True):
        torch.testing.assert_close(found, of_one(*pair, 0.5, axis), rtol=1e-14, atol=0)


def test_a_row_of_zeros_stays_zero() -> None:
    w, a, b = draw((12, 8))
    w[3], b[3] = 0, 0
    norm = of_one(w, a, b, 0.5, "output")
    assert norm[3] == 1
    assert dora.norm_squared(w, "output")[3] == 0


def test_a_gain_of_one_is_the_frozen_layer_bit_for_bit() -> None:
    base, bias = torch.randn(5, 12), torch.randn(12)
    out = dora.output_axis(
        base, torch.randn(5, 4), torch.zeros(12, 4), torch.ones(12), 2.0, bias, False
    )
    assert torch.equal(out, base)
    inputs = torch.randn(5, 8)
    assert torch.equal(dora.input_axis(inputs, torch.ones(8), False), inputs)


def test_a_gain_near_one_survives_16_bit() -> None:
    """Rounding g itself to bfloat16 would lose gains below 0.4 %."""
    base, gain = torch.ones(1, 12).bfloat16(), torch.full((12,), 1.002)
    out = dora.output_axis(
        1024 * base, torch.zeros(1, 4), torch.zeros(12, 4), gain, 1.0, None, False
    )
    torch.testing.assert_close(out, torch.full((1, 12), 1024 * 1.002), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(12, 8), (12, 8, 3, 3)])
def test_dropped_inputs_reach_the_update_alone(shape: tuple[int, ...]) -> None:
    """y = W₀x + b + (W' − W₀) x̃ on both axes."""
    w, a, b = (tensor.float() for tensor in draw(shape))
    convolution, scale = len(shape) == 4, 0.5
    inputs = torch.randn(2, 8, 5, 5) if convolution else torch.randn(2, 5, 8)
    kept = inputs * (torch.rand_like(inputs) < 0.5)
    operation = functional.conv2d if convolution else functional.linear
    bias = torch.randn(12)
    for axis, width in (("output", 12), ("input", 8)):
        gain = 1 + 0.1 * torch.randn(width)
        turned = [1] * len(shape)
        turned[0 if axis == "output" else 1] = width
        changed = gain.view(turned) * dora.updated(w, a, b, scale)
        expected = operation(inputs, w, bias) + operation(kept, changed - w)
        if axis == "output":
            found = dora.output_axis(
                operation(inputs, w, bias),
                operation(kept, a),
                b,
                gain,
                scale,
                bias,
                convolution,
                operation(kept, w, bias),
            )
        else:
            mixed = dora.input_axis(inputs, gain, convolution, kept)
            low = operation(dora.input_axis(kept, gain, convolution), a)
            found = operation(mixed, w, bias) + dora.raised(low, scale * b, None, convolution)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_scaling_loras_output_is_the_output_axis_with_its_gradients(bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    y, magnitude, norm, b = (
        torch.randn(n, generator=draw, dtype=torch.float64) for n in ((3, 5, 4), 4, 4, 4)
    )
    y.requires_grad_(True)
    magnitude.requires_grad_(True)
    offset = b if bias else torch.zeros_like(b)
    wanted = magnitude / norm * (y - offset) + offset
    for lost in (None, 1 - magnitude.detach() / norm):
        found = dora.scaled(y, magnitude, norm, b if bias else None, lost)
        torch.testing.assert_close(found, wanted)
        pairs = zip(
            torch.autograd.grad(found.square().sum(), [y, magnitude]),
            torch.autograd.grad(wanted.square().sum(), [y, magnitude], retain_graph=True),
            strict=True,
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other)
    assert torch.equal(dora.scaled(y, norm, norm, b), y)
