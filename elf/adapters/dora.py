"""DoRA (Liu et al. 2024) in closed form, as pure functions: no ΔW is built, and no identity matrix.

W' = g ⊙ (W₀ + s B A), with g = m / n along an axis: the magnitude m is learnt, and n is the norm of
W₀ + s B A, which takes no gradient (section 4.3 of the paper). The output axis, one norm for each
row, is the paper's and peft's; the input axis, one for each column, is Elf's own variant.

Shapes: out and in are a layer's channels, n is one of them by the axis; k counts its kernel's
positions (1 for a linear layer), r is the rank, L counts layers of one shape. A weight is
(out, in, *kernel), A is (r, in, *kernel), B is (out, r).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from elf.kernels import can_compile

Axis = Literal["output", "input"]


def precise(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return half precision as float32, in which norms are taken; float64 stays what it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def norm_squared(weight: Float[Tensor, "out in *kernel"], axis: Axis) -> Float[Tensor, " n"]:
    """Return the squared norms of a weight's rows (or columns); of W₀ they are c₀."""
    squares = precise(weight).flatten(1).square()
    if axis == "output":
        return squares.sum(dim=1)
    return squares.sum(dim=0).view(weight.shape[1], -1).sum(dim=1)


def overlap(
    weight: Float[Tensor, "out in *kernel"],
    a: Float[Tensor, "r in *kernel"],
    b: Float[Tensor, "out r"],
    axis: Axis,
) -> Float[Tensor, "rows columns"]:
    """Return what W₀ has in common with the update: W₀Aᵀ (out, r), or BᵀW₀ (r, in·k)."""
    flat = precise(weight).flatten(1)
    if axis == "output":
        return flat @ precise(a).flatten(1).T
    return precise(b).T @ flat


def norms(
    base: Float[Tensor, "L n"],
    shared: Float[Tensor, "L rows columns"],
    a: Float[Tensor, "L r in *kernel"],
    b: Float[Tensor, "L out r"],
    scale: float,
    axis: Axis,
) -> Float[Tensor, "L n"]:
    """Return n, the norms of W₀ + s B A, for layers of one shape at once.

    Output axis: n² = c₀ + 2s·rowsum((W₀Aᵀ) ⊙ B) + s²·rowsum((B(AAᵀ)) ⊙ B).
    Input axis: n² = c₀ + 2s·colsum(A ⊙ (BᵀW₀)) + s²·colsum(A ⊙ (BᵀB A)), with the kernel's
    positions summed like rows.

    Where W₀ + s B A has no length (a row of zeros) n is 1, so that the row stays zero.

    Args:
        base: c₀ of each layer.
        shared: The :func:`overlap` of each.
        a: A of each.
        b: B of each.
        scale: s, alpha / r or, for rsLoRA, alpha / √r.
        axis: Of the norms.
    """
    b, flat = precise(b), precise(a).flatten(2)  # (L, out, r), (L, r, in·k)
    if axis == "output":
        update = b @ (flat @ flat.mT)  # (L, out, r)
        change = ((2 * scale * shared + scale**2 * update) * b).sum(dim=2)
    else:
        update = (b.mT @ b) @ flat  # (L, r, in·k)
        change = ((2 * scale * shared + scale**2 * update) * flat).sum(dim=1)
        change = change.view(len(base), a.shape[2], -1).sum(dim=2)
    squares = base + change
    return torch.where(squares > 0, squares, 1.0).sqrt()


def updated(
    weight: Float[Tensor, "out in *kernel"],
    a: Float[Tensor, "r in *kernel"],
    b: Float[Tensor, "out r"],
    scale: float,
) -> Float[Tensor, "out in *kernel"]:
    """Return W₀ + s B A, built: for merging and for tests."""
    update = precise(b) @ precise(a).flatten(1)
    return precise(weight) + scale * update.view(weight.shape)


def over_channels(
    vector: Float[Tensor, " n"], tensor: Float[Tensor, "..."], convolution: bool
) -> Float[Tensor, "..."]:
    """Return a vector over channels as it multiplies tokens (…, n) or pictures (B, n, h, w)."""
    return (vector[:, None, None] if convolution else vector).to(tensor.dtype)


def raised(
    low: Float[Tensor, "..."],
    b: Float[Tensor, "out r"],
    bias: Float[Tensor, " out"] | None,
    convolution: bool,
) -> Float[Tensor, "..."]:
    """Return B (A x) + bias of A x, in its type: tokens (…, r), or pictures (B, r, h, w)."""
    b, bias = b.to(low.dtype), None if bias is None else bias.to(low.dtype)
    if convolution:
        return functional.conv2d(low, b[:, :, None, None], bias)
    return functional.linear(low, b, bias)


def scaled(
    output: Float[Tensor, "*tokens out"],
    magnitude: Float[Tensor, " out"],
    norm: Float[Tensor, " out"],
    bias: Float[Tensor, " out"] | None,
    lost: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "*tokens out"]:
    """Return y − (1 − g) ⊙ (y − b): DoRA's output on the output axis, of LoRA's output y.

    A gain of exactly 1 gives y bit for bit; and in 16 bit it is 1 − g that is rounded, not g, whose
    steps are too coarse near 1 (0.008 in bfloat16). One pass over y here, three in the backward
    pass, where what is composed of PyTorch's operations takes six.

    Args:
        output: y.
        magnitude: m.
        norm: n, without a gradient.
        bias: b.
        lost: 1 − m / n in y's type, if it is known.
    """
    if lost is None:
        lost = (1 - magnitude.detach() / norm).to(output.dtype)
    result: Tensor = _Scaled.apply(output, magnitude, norm, bias, lost)
    return result


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        magnitude: Tensor,
        norm: Tensor,
        bias: Tensor | None,
        lost: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(output, norm, bias, lost)
        return less(output, lost, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        output, norm, bias, lost = ctx.saved_tensors
        grad, of_magnitude = less_backward(grads, output, lost, norm, bias)
        return grad, of_magnitude, None, None, None


def less(
    output: Float[Tensor, "*tokens out"],
    lost: Float[Tensor, " out"],
    bias: Float[Tensor, " out"] | None,
) -> Float[Tensor, "*tokens out"]:
    """Return y − (1 − g) ⊙ (y − b), without a gradient; see `scaled`."""
    if has_kernels(output):
        from elf.adapters.dora_kernels import scale

        return scale(output.contiguous(), lost, bias)
    result = torch.addcmul(output, output, lost, value=-1)
    if bias is not None:
        result.add_((bias * lost).to(result.dtype))
    return result


def less_backward(
    grads: Sequence[Float[Tensor, "*tokens part"]],
    output: Float[Tensor, "*tokens out"],
    lost: Float[Tensor, " out"],
    norm: Float[Tensor, " out"],
    bias: Float[Tensor, " out"] | None,
) -> tuple[Float[Tensor, "*tokens out"], Float[Tensor, " out"]]:
    """Return the gradients of y and m, by that of `less`, which may come in parts side by side."""
    if has_kernels(output):
        from elf.adapters.dora_kernels import scale_backward

        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        flat = [grad if grad.stride(-1) == 1 else grad.contiguous() for grad in flat]
        rows = output.reshape(-1, output.shape[-1])
        grad, of_magnitude = scale_backward(flat, rows, lost, norm, bias)
        return grad.view(output.shape), of_magnitude
    grad = grads[0] if len(grads) == 1 else torch.cat(list(grads), dim=-1)
    tokens = list(range(output.dim() - 1))
    of_gain = torch.sum(grad * output, tokens, dtype=norm.dtype)
    if bias is not None:
        of_gain = of_gain - bias * torch.sum(grad, tokens, dtype=norm.dtype)
    return torch.addcmul(grad, grad, lost, value=-1), of_gain / norm


def has_kernels(tensor: Tensor) -> bool:
    """Whether there are kernels of Elf's own where a tensor is; a compiler makes others."""
    return tensor.is_cuda and not torch.compiler.is_compiling() and can_compile(tensor.device)


def output_axis(
    base: Float[Tensor, "..."],
    low: Float[Tensor, "..."],
    b: Float[Tensor, "out r"],
    gain: Float[Tensor, " out"],
    scale: float,
    bias: Float[Tensor, " out"] | None,
    convolution: bool,
    dropped: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    """Return y = g ⊙ (W₀x + s B(Ax)) + b, where `scaled` of LoRA's output does not do.

    Computed as y = (W₀x + b) − (1 − g) ⊙ (W₀x + b) + (s g ⊙ B)(Ax) + (1 − g) ⊙ b: the frozen
    layer is used as it is, bias included, whatever it is made of; a gain of exactly 1 gives its
    output bit for bit; and in 16 bit it is 1 − g that is rounded, not g, whose steps are too coarse
    near 1 (0.008 in bfloat16). It costs two passes over the output, like LoRA's scale and sum.

    Args:
        base: W₀x + b.
        low: A x.
        b: B.
        gain: g = m / n.
        scale: s.
        bias: b.
        convolution: Whether these are pictures.
        dropped: W₀x̃ + b with adapter dropout, x̃ being the input with elements dropped; then ``low``
            is A x̃. The update W' − W₀ alone sees x̃: y = W₀x + b + (g − 1) ⊙ W₀x̃ + s g ⊙ B(Ax̃).
    """
    lost = 1 - gain
    rest = None if bias is None else bias * lost
    total = raised(low, (gain * scale)[:, None] * b, rest, convolution) + base
    factor = over_channels(lost, total, convolution)
    return torch.addcmul(total, base if dropped is None else dropped, factor, value=-1)


def input_axis(
    inputs: Float[Tensor, "..."],
    gain: Float[Tensor, " in"],
    convolution: bool,
    dropped: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    """Return g ⊙ x, what both the frozen layer and A take: y = W₀(g ⊙ x) + b + s B A (g ⊙ x).

    With adapter dropout the frozen layer takes x + (g − 1) ⊙ x̃ (give ``dropped``), A takes g ⊙ x̃.
    """
    factor = over_channels(1 - gain, inputs, convolution)
    return torch.addcmul(inputs, inputs if dropped is None else dropped, factor, value=-1)
