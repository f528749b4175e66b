"""The product of an adapted linear layer, W₀x + b + s B(Ax), with gradients in as few kernels.

Composed of peft's operations a LoRA layer is twice as many, most of them casts: of x to float32 and
back under autocast, of A and B, of their gradients. A small batch's step waits for each of them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from elf.autocasting import computing_type


def adapted_linear(
    x: Float[Tensor, "*tokens in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    a: Float[Tensor, "r in"],
    b: Float[Tensor, "out r"],
    scale: float,
) -> Float[Tensor, "*tokens out"]:
    """Return W₀x + b + s B(Ax), of a frozen weight and bias."""
    x = x.to(computing_type(x))
    result: Tensor = _AdaptedLinear.apply(x, weight, bias, a, b, scale)
    return result


def with_update(
    base: Float[Tensor, "*tokens out"],
    x: Float[Tensor, "*tokens in"],
    a: Float[Tensor, "r in"],
    b: Float[Tensor, "out r"],
    scale: float,
) -> Float[Tensor, "*tokens out"]:
    """Return y + s B(Ax), of the output y of a frozen layer, whatever that is made of."""
    result: Tensor = _WithUpdate.apply(base, x.to(base.dtype), a, b, scale)
    return result


def updated_output(
    base: nn.Linear,
    x: Float[Tensor, "*tokens in"],
    a: Float[Tensor, "r in"],
    b: Float[Tensor, "out r"],
    scale: float,
) -> Float[Tensor, "*tokens out"]:
    """Return W₀x + b + s B(Ax) of a linear layer, or of one that keeps its weight otherwise."""
    if type(base) is nn.Linear:
        return adapted_linear(x, base.weight, base.bias, a, b, scale)
    return with_update(base(x), x, a, b, scale)


class _AdaptedLinear(torch.autograd.Function):
    """W₀x + b + s B(Ax)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = functional.linear(x, a)
        out = functional.linear(x, weight, bias)
        rows(out).addmm_(rows(low), b.T, alpha=scale)
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, a, b = ctx.saved_tensors
        grad = rows(grads[0])
        low_grad, a_grad, b_grad = factor_gradients(grad, x, low, b, ctx.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (grad @ weight).addmm_(low_grad, a).view(x.shape)
        return x_grad, None, None, a_grad, b_grad, None


class _WithUpdate(torch.autograd.Function):
    """y + s B(Ax)."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = functional.linear(x, a)
        out = torch.addmm(rows(base), rows(low), b.T, alpha=scale).view(base.shape)
        ctx.save_for_backward(x, low, a, b)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        grad = rows(grads[0])
        low_grad, a_grad, b_grad = factor_gradients(grad, x, low, b, ctx.scale)
        x_grad = (low_grad @ a).view(x.shape) if ctx.needs_input_grad[1] else None
        return grads[0], x_grad, a_grad, b_grad, None


def rows(tensor: Float[Tensor, "*tokens n"]) -> Float[Tensor, "rows n"]:
    """Return all tokens in one dimension."""
    return tensor.reshape(-1, tensor.shape[-1])


def factor_gradients(
    grad: Float[Tensor, "rows out"],
    x: Float[Tensor, "*tokens in"],
    low: Float[Tensor, "*tokens r"],
    b: Float[Tensor, "out r"],
    scale: float,
) -> tuple[Float[Tensor, "rows r"], Float[Tensor, "r in"], Float[Tensor, "out r"]]:
    """Return the gradients of Ax, A and B of s B(Ax); the last two in float32 or finer.

    Args:
        grad: Of the output.
        x: The input.
        low: A x.
        b: B.
        scale: s.
    """
    low_grad = grad @ b
    b_grad = product(grad.T, rows(low))
    if scale != 1:
        low_grad, b_grad = low_grad * scale, b_grad * scale
    return low_grad, product(low_grad.T, rows(x)), b_grad


def product(left: Float[Tensor, "m k"], right: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    """Return a product in float32 or finer, as the gradients of what is kept so."""
    if left.dtype not in (torch.float16, torch.bfloat16):
        return left @ right
    if left.is_cuda:  # a product's own accumulator, not rounded to 16 bit in between
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()
