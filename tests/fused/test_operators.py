"""The operators' formulas and gradients, beside torch's in float64, and what torch asks of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from elf.fused import operators
from elf.fused.operators import add_with_bias, geglu, group_norm

LAST = torch.channels_last
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHAPES = [(2, 8, 5, 3), (1, 8, 1, 1), (3, 8, 1, 4), (1, 8, 4, 1)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm(channels: int = 8, groups: int = 4) -> nn.GroupNorm:
    layer = nn.GroupNorm(groups, channels, eps=1e-5).requires_grad_(requires_grad=False)
    layer.weight.copy_(normal(channels, seed=1))
    layer.bias.copy_(normal(channels, seed=2))
    return layer


def exact_norm(layer: nn.GroupNorm, x: Tensor, shift: Tensor | None, silu: bool) -> Tensor:
    value = x if shift is None else x + shift[..., None, None]
    weight, bias = layer.weight.double(), layer.bias.double()
    out = functional.group_norm(value, layer.num_groups, weight, bias, layer.eps)
    return functional.silu(out) if silu else out


def near(ours: Tensor, wanted: Tensor) -> None:
    limit = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours.double(), wanted.double(), rtol=limit, atol=limit)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Return the output and the gradients of inputs, of one that comes in another layout."""
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    out = function(*leaves)
    weights = normal(*out.shape[:-2], out.shape[-1], out.shape[-2], seed=3).to(out.dtype)
    loss = (out.transpose(-1, -2) * weights).sum()
    return [out.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_norm_with_the_gradients_of_input_and_shift(
    shape: tuple[int, ...], silu: bool, dtype: torch.dtype
) -> None:
    layer = norm(groups=1 if shape[2:] == (1, 1) else 4).to(dtype)  # two numbers differ by chance
    x, shift = (normal(*shape) + 3).to(dtype), normal(*shape[:2], seed=4).to(dtype)
    ours = with_gradients(lambda x, s: group_norm(layer, x, s, silu), x, shift)
    wanted = with_gradients(
        lambda x, s: exact_norm(layer, x, s, silu), x.double(), shift.double()
    )  # fmt: skip
    for one, other in zip(ours, wanted, strict=True):
        near(one, other)
        assert one.dtype == dtype
    ours = with_gradients(lambda x: group_norm(layer, x, None, silu), x)
    wanted = with_gradients(lambda x: exact_norm(layer, x, None, silu), x.double())
    for one, other in zip(ours, wanted, strict=True):
        near(one, other)


def test_a_shift_may_come_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the bias alone does, of a block without an embedding: a kernel reads rows in memory."""
    layer, x, bias = norm(), normal(3, 8, 2, 2), normal(8, seed=4)
    seen: list[Tensor] = []
    plain = operators._norm

    def spying(x: Tensor, shift: Tensor, *more: object) -> object:
        seen.append(shift)
        return plain(x, shift, *more)

    monkeypatch.setattr(operators, "_norm", spying)
    expanded = group_norm(layer, x, bias.expand(3, -1))
    assert torch.equal(expanded, group_norm(layer, x, bias.repeat(3, 1)))
    ours = with_gradients(lambda b: group_norm(layer, x, b.expand(3, -1)), bias)
    wanted = with_gradients(
        lambda b: exact_norm(layer, x.double(), b.expand(3, -1), silu=False), bias.double()
    )
    for one, other in zip(ours, wanted, strict=True):
        near(one, other)
    assert all(shift.is_contiguous() for shift in seen)


def test_a_norm_that_is_trained_keeps_its_gradients() -> None:
    for name in ("weight", "bias"):
        layer, x, shift = norm(), normal(2, 8, 3, 3), normal(2, 8, seed=4)
        parameter = getattr(layer, name).requires_grad_()
        (ours,) = torch.autograd.grad(
            group_norm(layer, x, shift, silu=True).square().sum(), parameter
        )
        out = exact_norm(layer, x.double(), shift.double(), silu=True)
        (wanted,) = torch.autograd.grad(out.square().sum(), parameter)
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_a_norm_without_parameters_is_torchs() -> None:
    layer, x = nn.GroupNorm(4, 8, affine=False), normal(2, 8, 3, 3)
    assert torch.equal(group_norm(layer, x, silu=True), functional.silu(layer(x)))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_gate(dtype: torch.dtype) -> None:
    def exact(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * functional.gelu(gate)

    x = (3 * normal(2, 5, 12)).to(dtype)
    for given in (x, x.transpose(0, 1)):  # whatever its layout
        ours, wanted = with_gradients(geglu, given), with_gradients(exact, given.double())
        for one, other in zip(ours, wanted, strict=True):
            near(one, other)
            assert one.dtype == dtype


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sum_with_the_gradient_of_its_bias(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = [normal(*shape).to(dtype), normal(*shape, seed=1).to(dtype), normal(8).to(dtype)]
    ours = with_gradients(add_with_bias, *given)
    wanted = with_gradients(
        lambda one, other, bias: one + other + bias[:, None, None],
        *(each.double() for each in given),
    )
    for one, other in zip(ours, wanted, strict=True):
        near(one, other)
    assert torch.equal(add_with_bias(given[0], given[1], None), given[0] + given[1])


def test_types_that_differ_give_the_type_that_torch_gives() -> None:
    one, other, bias = normal(2, 8, 3, 3), normal(2, 8, 3, 3, seed=1).bfloat16(), normal(8)
    for first, second in ((one, other), (other, one)):
        ours = with_gradients(add_with_bias, first, second, bias)
        assert [each.dtype for each in ours] == [bias.dtype, first.dtype, second.dtype, bias.dtype]
    layer = norm()  # of a product's output under autocast, with a shift in float32
    ours = with_gradients(lambda x, s: group_norm(layer, x, s), other, normal(2, 8))
    assert [each.dtype for each in ours] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_no_pictures_are_no_work() -> None:
    layer, x = norm(), torch.empty(0, 8, 4, 4, requires_grad=True)
    out = add_with_bias(group_norm(layer, x, torch.empty(0, 8), silu=True), x, layer.bias)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert out.shape == grad.shape == x.shape
    assert geglu(torch.empty(0, 4, 6)).shape == (0, 4, 3)


def test_they_work_without_gradients() -> None:
    layer, x = norm(), normal(2, 8, 3, 3)
    with torch.inference_mode():
        out = add_with_bias(group_norm(layer, x, silu=True), x, layer.bias)
        assert geglu(x.flatten(2)[..., :6]).shape == (2, 8, 3)
    wanted = exact_norm(layer, x.double(), None, silu=True) + x + layer.bias[:, None, None]
    near(out.clone(), wanted)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_torch_finds_nothing_wrong_with_the_operators(
    shape: tuple[int, ...], dtype: torch.dtype, shifted: bool
) -> None:
    """Their schemas, and that tensors without numbers come out with the shapes of real ones."""
    layer = norm().to(dtype)
    x = normal(*shape).to(dtype).contiguous(memory_format=LAST)
    shift = normal(*shape[:2]).to(dtype) if shifted else None
    weight, bias = layer.weight.detach(), layer.bias.detach()
    stats = operators._norm(x, shift, weight, bias, 4, 1e-5, True)[1]
    given = {
        operators._norm: (x, shift, weight, bias, 4, 1e-5, True),
        operators._norm_backward: (x, x, shift, weight, bias, stats, True),
        operators._gate: (normal(2, 3, 8).to(dtype),),
        operators._gate_backward: (normal(2, 3, 4).to(dtype), normal(2, 3, 8).to(dtype)),
        operators._add: (x, x.clone(), bias),
    }
    for operator, arguments in given.items():
        torch.library.opcheck(operator, arguments)
