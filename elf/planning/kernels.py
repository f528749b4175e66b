"""What an operator costs on a GPU, from its shapes: arithmetic, memory traffic, kernels."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kernel(NamedTuple):
    """The work of one operator.

    Attributes:
        name: The operator.
        flops: Multiplications and additions in matrix products.
        bytes: Read from and written to the card's memory.
        launches: Kernels it consists of.
        half: Whether its products are of 16-bit numbers.
    """

    name: str
    flops: int
    bytes: int
    launches: int
    half: bool


HALF = (torch.float16, torch.bfloat16)


def kernel_of(
    func: Any, args: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Kernel:
    """Return the work of an operator.

    Args:
        func: The operator, of ATen or of a library.
        args: Its arguments by position.
        inputs: The tensors among all its arguments.
        outputs: The tensors that it returns.
    """
    name = func.__name__.split(".")[0]
    half = any(each.dtype in HALF for each in inputs)
    flops = _FLOPS[name](args, outputs) if name in _FLOPS else 0
    if name.startswith("convolution"):
        return Kernel(name, flops, *_convolution(name, args, outputs, half), half)
    if name.startswith("_foreach") or name.startswith("_fused"):
        # one kernel takes some dozens of tensors
        return Kernel(name, flops, _size(inputs) + _size(outputs), 1 + len(inputs) // 64, half)
    passes, launches = _NORMS.get(name, (1, 1))
    written = _size(outputs) or _size(inputs[:1])  # in place
    return Kernel(name, flops, passes * _size(inputs) + written, launches, half)


_NORMS = {
    # sums of each group, then the scales of each channel, then the normalised values
    "native_group_norm": (2, 3),
    # the same backwards: sums, two kernels on channels, values
    "native_group_norm_backward": (2, 4),
    "native_layer_norm_backward": (1, 1),  # weights are frozen: nothing is summed for them
}
"""How often norms read their inputs, and how many kernels they are (ATen's ``group_norm`` for
CUDA)."""


def _convolution(
    name: str, args: Sequence[Any], outputs: Sequence[Tensor], half: bool
) -> tuple[int, int]:
    if name == "convolution":
        tensors, directions = [args[0], args[1], outputs[0]], 1
    else:  # gradients of input and weight, as asked for; they are zero-sized tensors elsewhere
        tensors = [args[0], args[2], *outputs]
        directions = max(1, sum(args[-1][:2]))
    # Tensor cores take channels last: of others cuDNN turns 16-bit inputs and weights over, and the
    # output back, each in a kernel that reads and writes it.
    turned = half and not tensors[1].is_contiguous(memory_format=torch.channels_last)
    return (3 if turned else 1) * _size(tensors), (4 if turned else 1) * directions


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _product(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    return 2 * outputs[0].numel() * int(args[0].shape[-1])


def _added_product(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    return 2 * int(args[1].numel()) * int(args[2].shape[-1])


def _forward_convolution(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    return 2 * outputs[0].numel() * int(args[1].shape[1:].numel())


def _backward_convolution(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    return int(sum(args[-1][:2])) * 2 * int(args[0].numel()) * int(args[2].shape[1:].numel())


def _attention(products: int, first: int) -> Callable[[Sequence[Any], Sequence[Tensor]], int]:
    def flops(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
        query, key = args[first], args[first + 1]
        batch, heads, length, width = query.shape
        return int(products * 2 * batch * heads * length * key.shape[-2] * width)

    return flops


_FLOPS: dict[str, Callable[[Sequence[Any], Sequence[Tensor]], int]] = {
    "mm": _product,
    "bmm": _product,
    "addmm": _added_product,
    "addmm_": _added_product,
    "baddbmm": _added_product,
    "convolution": _forward_convolution,
    "convolution_backward": _backward_convolution,
    # QKᵀ and PV; backwards the first once more, and the gradients of Q, K, V and P
    "_scaled_dot_product_flash_attention_for_cpu": _attention(2, 0),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention(5, 1),
}
