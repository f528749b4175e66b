"""What a UNet does between its products, as operators with gradients: in few kernels on a GPU.

Each is an operator of torch with a formula for any device, a Triton kernel for CUDA, and shapes for
tensors without numbers, so that a plan counts it as one kernel too. The parameters of norms are
frozen: only inputs have gradients.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LAST = torch.channels_last


@torch.library.custom_op("elf::group_norm", mutates_args=())
def _norm(
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """Return the output, and each group's mean and 1/deviation (B, groups, 2)."""
    value = _shifted(x, shift)
    grouped = _grouped(value, groups)
    mean = grouped.mean(dim=2, keepdim=True)
    variance = (grouped - mean).square().mean(dim=2, keepdim=True)
    stats = torch.cat([mean, torch.rsqrt(variance + eps)], dim=2)
    normal = _normal(value, stats) * _of_channels(weight) + _of_channels(bias)
    out = functional.silu(normal) if silu else normal
    return out.to(x.dtype).contiguous(memory_format=LAST), stats


@_norm.register_kernel("cuda")
def _(
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    from elf.fused.norm_kernels import normalize

    return normalize(x, shift, weight, bias, groups, eps, silu)


@_norm.register_fake
def _(
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=LAST)
    return out, x.new_empty((x.shape[0], groups, 2), dtype=torch.float32)


@torch.library.custom_op("elf::group_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor,
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    stats: Tensor,
    silu: bool,
) -> Tensor:
    """Return the gradient of x."""
    normal, w = _normal(_shifted(x, shift), stats), _of_channels(weight)
    slope = grad.float()
    if silu:
        value = normal * w + _of_channels(bias)
        share = torch.sigmoid(value)
        slope = slope * share * (1 + value * (1 - share))
    slope = _grouped(slope * w, stats.shape[1])
    grouped = normal.reshape(slope.shape)
    along = (slope * grouped).mean(dim=2, keepdim=True)
    result = stats[..., 1:] * (slope - slope.mean(dim=2, keepdim=True) - grouped * along)
    return result.reshape(x.shape).to(x.dtype).contiguous(memory_format=LAST)


@_norm_backward.register_kernel("cuda")
def _(
    grad: Tensor,
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    stats: Tensor,
    silu: bool,
) -> Tensor:
    from elf.fused.norm_kernels import normalize_backward

    return normalize_backward(grad, x, shift, weight, bias, stats, silu)


@_norm_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    stats: Tensor,
    silu: bool,
) -> Tensor:
    return torch.empty_like(x, memory_format=LAST)


@torch.library.custom_op("elf::geglu", mutates_args=())
def _gate(x: Tensor) -> Tensor:
    """Return a GELU(b) of x = (a, b)."""
    value, gate = x.chunk(2, dim=-1)
    return value * functional.gelu(gate)


@_gate.register_kernel("cuda")
def _(x: Tensor) -> Tensor:
    from elf.fused.pointwise_kernels import gate

    return gate(x)


@_gate.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@torch.library.custom_op("elf::geglu_backward", mutates_args=())
def _gate_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of x."""
    value, gate = x.float().chunk(2, dim=-1)
    below = torch.special.ndtr(gate)
    density = torch.exp(-0.5 * gate * gate) / (2 * torch.pi) ** 0.5
    of_gate = value * (below + gate * density)
    return torch.cat([grad * gate * below, grad * of_gate], dim=-1).to(x.dtype)


@_gate_backward.register_kernel("cuda")
def _(grad: Tensor, x: Tensor) -> Tensor:
    from elf.fused.pointwise_kernels import gate_backward

    return gate_backward(grad, x)


@_gate_backward.register_fake
def _(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("elf::add_with_bias", mutates_args=())
def _add(one: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """Return one + other + bias by channel."""
    return (one.float() + other.float() + _of_channels(bias)).to(one.dtype)


@_add.register_kernel("cuda")
def _(one: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    from elf.fused.pointwise_kernels import add_with_bias

    return add_with_bias(one, other, bias)


@_add.register_fake
def _(one: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(one)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor | None, layer: nn.GroupNorm, silu: bool
    ) -> Tensor:
        out, stats = _norm(x, shift, layer.weight, layer.bias, layer.num_groups, layer.eps, silu)
        ctx.save_for_backward(x, shift, layer.weight, layer.bias, stats)
        ctx.silu = silu
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, weight, bias, stats = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=LAST)
        result = _norm_backward(grad, x, shift, weight, bias, stats, ctx.silu)
        of_shift = result.sum(dim=(2, 3)) if ctx.needs_input_grad[1] else None
        return result, of_shift, None, None


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _gate(x)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _gate_backward(grads[0].contiguous(), x)  # type: ignore[no-any-return]


class _AddWithBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, bias: Tensor) -> Tensor:
        return _add(one, other, bias)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_bias = grads[0].sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grads[0], grads[0], of_bias


def group_norm(
    layer: nn.GroupNorm,
    x: Float[Tensor, "B C h w"],
    shift: Float[Tensor, "B C"] | None = None,
    silu: bool = False,
) -> Float[Tensor, "B C h w"]:
    """Return the norm of x + shift, SiLU of it if wanted, channels last.

    A layer that is trained, or has no parameters, is computed by torch: only x and shift have
    gradients here.
    """
    if layer.weight is None or layer.weight.requires_grad or layer.bias.requires_grad:
        value = x if shift is None else x + shift[..., None, None]
        out = functional.group_norm(value, layer.num_groups, layer.weight, layer.bias, layer.eps)
        return functional.silu(out) if silu else out
    x = x.contiguous(memory_format=LAST)
    if shift is not None:  # one number for all pictures may have come expanded
        shift = shift.expand(len(x), -1).contiguous()
    result: Tensor = _GroupNorm.apply(x, shift, layer, silu)
    return result


def geglu(x: Float[Tensor, "*tokens two_n"]) -> Float[Tensor, "*tokens n"]:
    """Return a GELU(b) of x = (a, b) (Shazeer 2020, arXiv:2002.05202)."""
    result: Tensor = _Geglu.apply(x.contiguous())
    return result


def add_with_bias(
    one: Float[Tensor, "B C h w"], other: Float[Tensor, "B C h w"], bias: Float[Tensor, " C"] | None
) -> Float[Tensor, "B C h w"]:
    """Return one + other + bias, channels last."""
    if bias is None:
        return one + other
    if one.dtype != other.dtype:  # under autocast: which type comes out is torch's to say
        return one + other + bias[:, None, None]
    one, other = (each.contiguous(memory_format=LAST) for each in (one, other))
    result: Tensor = _AddWithBias.apply(one, other, bias)
    return result


def _of_channels(vector: Tensor) -> Tensor:
    return vector.float()[:, None, None]


def _shifted(x: Tensor, shift: Tensor | None) -> Tensor:
    return x.float() if shift is None else x.float() + shift.float()[..., None, None]


def _grouped(value: Tensor, groups: int) -> Tensor:
    """Return (B, C, h, w) as (B, groups, numbers of one), B may be 0."""
    return torch.unflatten(value, 1, (groups, -1)).flatten(2)


def _normal(value: Tensor, stats: Tensor) -> Tensor:
    """Return normalised values (B, C, h, w) in float32."""
    grouped = _grouped(value, stats.shape[1])
    return ((grouped - stats[..., :1]) * stats[..., 1:]).reshape(value.shape)
