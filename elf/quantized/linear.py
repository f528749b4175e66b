"""A frozen linear layer that keeps codes, and makes its weight of them when it is needed."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from elf.autocasting import computing_type
from elf.errors import ElfError
from elf.quantized.codes import Kind, decode, encode, fits


class QuantizedLinear(nn.Linear):
    """A linear layer whose frozen weight is in 4 or 8 bit; the bias stays what it was.

    Each pass makes the weight anew, in the type of its input, and forgets it: neither pass keeps a
    16-bit copy, and nothing in it waits for the device, so that a CUDA graph can hold it. It is the
    same weight for every shape of input, the one that `dequantized` returns. (bitsandbytes' own
    layers have other kernels for few tokens, return float32 after a normalisation under autocast,
    and pack their weight anew on some CPUs.)

    Args:
        linear: The layer to quantise.
        kind: How.
        device: Where that is computed; the result is where the layer was.
    """

    def __init__(self, linear: nn.Linear, kind: Kind, device: torch.device | None = None) -> None:
        nn.Module.__init__(self)  # nn.Linear would make a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind = kind
        self.dtype = linear.weight.dtype
        home = linear.weight.device
        codes, scales = encode(linear.weight.detach().to(device or home), kind)
        # Both as parameters: DDP would send buffers around in each step.
        self.weight = nn.Parameter(codes.to(home), requires_grad=False)
        self.scales = nn.Parameter(scales.to(home), requires_grad=False)
        self.bias = linear.bias
        self.train(linear.training)

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight (out, in), in the type that it had or in another."""
        shape = (self.out_features, self.in_features)
        return decode(self.weight, self.scales, self.kind, shape, dtype or self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b; under autocast in its type, as other linear layers."""
        x = x.to(computing_type(x))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        result: Tensor = _Product.apply(
            x, self.weight, self.scales, bias, self.kind, (self.out_features, self.in_features)
        )
        return result

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "QuantizedLinear":
        # `.half()` and the like mean the weights that are computed with, not their scales.
        scales = self.scales.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales.data = scales.to(self.scales.device)
        return self

    def extra_repr(self) -> str:
        """Return nn.Linear's, and how the weight is kept."""
        return f"{super().extra_repr()}, {self.kind}"


class _Product(torch.autograd.Function):
    """W x + b, with W made of its codes in both passes instead of kept from one to the other."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        kind: Kind,
        shape: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.kind, ctx.shape = kind, shape
        return functional.linear(x, decode(codes, scales, kind, shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        codes, scales = ctx.saved_tensors
        weight = decode(codes, scales, ctx.kind, ctx.shape, grad.dtype)
        return grad @ weight, None, None, None, None, None


def refuse_missing(kind: Kind | None) -> None:
    """Refuse nf4 where its library is not installed.

    Raises:
        ElfError: With what installs it.
    """
    if kind == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise ElfError(
            "model.quantization: nf4 needs bitsandbytes: pip install 'elf[8bit]', or take int8"
        )


def quantize(
    network: nn.Module,
    kind: Kind,
    device: torch.device | None = None,
    skip: Sequence[nn.Module] = (),
) -> None:
    """Put quantised layers into the places of a network's linear layers, one after the other.

    Convolutions keep their type. The network stays where it is; of what is computed elsewhere only
    one layer is there at a time.

    Args:
        network: A frozen network without an adapter.
        kind: How.
        device: Where it is computed; a GPU takes seconds for SDXL, a CPU more than a minute.
        skip: Layers that stay as they are.

    Raises:
        ElfError: If the library that nf4 needs is not installed.
    """
    refuse_missing(kind)
    for name, module in list(network.named_modules()):
        kept = any(module is each for each in skip)
        if type(module) is nn.Linear and fits(module.weight, kind) and not kept:
            network.set_submodule(name, QuantizedLinear(module, kind, device))
