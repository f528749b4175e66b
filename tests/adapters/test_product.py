"""An adapted linear layer's product: the composed one, with its gradients, in each type."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from elf.adapters.product import adapted_linear, with_update


def tensors(dtype: torch.dtype, bias: bool) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    made = {"x": normal(2, 5, 6), "a": normal(3, 6), "b": normal(4, 3), "weight": normal(4, 6)}
    if bias:
        made["bias"] = normal(4)
    for name in ("x", "a", "b"):
        made[name].requires_grad_(True)
    return made


def plain(x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    base = functional.linear(x, weight, bias)
    return base + 0.5 * functional.linear(functional.linear(x, a), b)


def fused(x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return adapted_linear(x, weight, bias, a, b, 0.5)


def apart(x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return with_update(functional.linear(x, weight, bias), x, a, b, 0.5)


@pytest.mark.parametrize("ours", [fused, apart])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_composed_one_with_its_gradients(ours, bias: bool) -> None:
    given = tensors(torch.float64, bias)
    wanted = plain(**given)
    expected = torch.autograd.grad(wanted.square().sum(), [given[n] for n in "xab"])
    result = ours(**given)
    torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(result.square().sum(), [given[n] for n in "xab"])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ours", [fused, apart])
def test_under_autocast_the_factors_stay_float32_and_so_do_their_gradients(ours) -> None:
    given = tensors(torch.float32, True)
    given["weight"], given["bias"] = given["weight"].bfloat16(), given["bias"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        result = ours(**given)
    assert result.dtype == torch.bfloat16
    expected = plain(**{name: value.float() for name, value in given.items()})
    torch.testing.assert_close(result.float(), expected, rtol=3e-2, atol=0.1)
    gradients = torch.autograd.grad(result.float().sum(), [given[n] for n in "xab"])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


@pytest.mark.parametrize("ours", [fused, apart])
def test_it_works_under_checkpointing_and_for_inputs_without_a_gradient(ours) -> None:
    given = tensors(torch.float32, False)
    given["x"] = given["x"].detach()
    wanted = torch.autograd.grad(plain(**given).square().sum(), [given["a"], given["b"]])
    result = checkpoint(lambda: ours(**given), use_reentrant=False)
    for one, other in zip(
        torch.autograd.grad(result.square().sum(), [given["a"], given["b"]]), wanted, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_nothing_is_kept_from_one_pass_to_the_other_but_inputs_and_what_is_narrow() -> None:
    layer = nn.Linear(64, 64).requires_grad_(False)
    a, b = torch.randn(2, 64, requires_grad=True), torch.randn(64, 2, requires_grad=True)
    x = torch.randn(32, 64, requires_grad=True)
    kept: list[int] = []
    own = {each.data_ptr() for each in (x, a, b, layer.weight)}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        adapted_linear(x, layer.weight, layer.bias, a, b, 1.0)
    assert kept == [32 * 2]
