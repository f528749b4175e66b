"""Adapted linear layers with one input, as one: the queries, keys and values of attention.

Their frozen weights stand below each other in one matrix, so that what is three products of few
rows is one. Their parameters, names and files stay their own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from elf.adapters import dora
from elf.adapters.adapted import LoraLinear, OutputLinear
from elf.adapters.factored import NAME, factors
from elf.adapters.product import product, rows
from elf.autocasting import computing_type


class JoinedLayers:
    """Adapted layers that see the same input; called with it, it returns all their outputs.

    Args:
        layers: The layers, which stay where they are in the network.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = list(layers)
        self._weight: Tensor | None = None

    @staticmethod
    def fits(layers: Sequence[nn.Module]) -> bool:
        """Whether layers can be one: plain linear layers of one shape, without biases.

        They carry LoRA, or DoRA over their outputs.
        """
        if {type(layer) for layer in layers} not in ({LoraLinear}, {OutputLinear}):
            return False
        bases = [layer.get_base_layer() for layer in layers]  # type: ignore[operator]
        plain = all(type(base) is nn.Linear and base.bias is None for base in bases)
        return plain and len({base.weight.shape for base in bases}) == 1

    def __call__(self, x: Float[Tensor, "*tokens in"]) -> Sequence[Float[Tensor, "*tokens out"]]:
        """Return each layer's output."""
        pairs = self._factors(x)
        if pairs is None:
            return [layer(x) for layer in self._layers]
        scale: Any = self._layers[0].scaling[NAME]  # type: ignore[index]
        x = x.to(computing_type(x))
        flat = [factor for pair in pairs for factor in pair]
        whole: Tensor = _JoinedLinear.apply(x, self.join(), scale, *flat)
        if type(self._layers[0]) is LoraLinear:
            return whole.chunk(len(pairs), dim=-1)
        layers: list[Any] = self._layers
        norm = _side_by_side([layer.norm() for layer in layers])
        lost = _side_by_side([layer.lost(whole.dtype) for layer in layers])
        magnitudes = [layer.magnitude() for layer in layers]
        outputs: tuple[Tensor, ...] = _JoinedGain.apply(whole, lost, norm, *magnitudes)
        return outputs

    def _factors(self, x: Tensor) -> list[tuple[Tensor, Tensor]] | None:
        """Return A and B of each, or None where one of them does something else now."""
        layers: list[Any] = self._layers
        for layer in layers:
            if layer.disable_adapters or layer.merged or NAME not in layer.active_adapters:
                return None
            if layer.drops:
                return None
            if type(layer) is OutputLinear and layer.lost(computing_type(x)) is None:
                return None  # its norms are not kept
        pairs = [factors(layer) for layer in layers]
        ranks = {b.shape for _, b in pairs}
        scales = {layer.scaling[NAME] for layer in layers}
        return pairs if len(ranks) == len(scales) == 1 else None

    def join(self, device: torch.device | None = None) -> Tensor:
        """Return the frozen weights below each other, which are parts of it from then on.

        Args:
            device: Where they are put, for good: moved to another one, which is done one by one,
                they are joined there again.
        """
        layers: list[Any] = self._layers
        weights = [layer.get_base_layer().weight for layer in layers]
        joined = self._weight
        if joined is None or any(_storage(weight) != _storage(joined) for weight in weights):
            first = weights[0]
            with torch.inference_mode(False), torch.no_grad():  # training goes on with them
                joined = first.new_empty((len(weights) * len(first), first.shape[1]), device=device)
                for weight, part in zip(weights, joined.chunk(len(weights)), strict=True):
                    part.copy_(weight.detach())
                    weight.data = part
            self._weight = joined
        return joined


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]  # has no address if fake


def _side_by_side(vectors: Sequence[Tensor]) -> Tensor:
    """Return vectors as one, without a copy where they lie so."""
    first, place = vectors[0], vectors[0].storage_offset()
    for vector in vectors:
        if _storage(vector) != _storage(first) or vector.storage_offset() != place:
            return torch.cat(list(vectors))
        place += len(vector)
    return first.as_strided((place - first.storage_offset(),), (1,))


class _JoinedGain(torch.autograd.Function):
    """y − (1 − g) ⊙ y of several layers, side by side; each magnitude has its own gradient."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, lost: Tensor, norm: Tensor, *magnitudes: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(output, lost, norm)
        return dora.less(output, lost, None).chunk(len(magnitudes), dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        output, lost, norm = ctx.saved_tensors
        grad, of_magnitudes = dora.less_backward(grads, output, lost, norm, None)
        return grad, None, None, *of_magnitudes.chunk(len(grads))


class _JoinedLinear(torch.autograd.Function):
    """W₀x + s B(Ax) of several layers, side by side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: float, *pairs: Tensor) -> Tensor:
        a = torch.cat(pairs[::2]).to(x.dtype)
        b = torch.stack(pairs[1::2]).to(x.dtype)
        count, width, rank = b.shape
        low, out = functional.linear(x, a), functional.linear(x, weight)
        by_layer = rows(out).view(-1, count, width).transpose(0, 1)
        by_layer.baddbmm_(rows(low).view(-1, count, rank).transpose(0, 1), b.mT, alpha=scale)
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, a, b = ctx.saved_tensors
        count, width, rank = b.shape
        grad, low_grad = rows(grads[0]), torch.empty_like(rows(low))
        by_layer = low_grad.view(-1, count, rank).transpose(0, 1)
        torch.bmm(grad.view(-1, count, width).transpose(0, 1), b, out=by_layer)
        low_grad = _times(low_grad, ctx.scale)
        # not as one: a product with few outputs of many rows is fast only by itself
        pairs_of = zip(grad.chunk(count, dim=1), rows(low).chunk(count, dim=1), strict=True)
        ups = [_times(product(part.T, lowered), ctx.scale) for part, lowered in pairs_of]
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (grad @ weight).addmm_(low_grad, a).view(x.shape)
        downs = product(low_grad.T, rows(x)).chunk(count)
        pairs = (grad for pair in zip(downs, ups, strict=True) for grad in pair)
        return x_grad, None, None, *pairs


def _times(tensor: Tensor, scale: float) -> Tensor:
    return tensor if scale == 1 else tensor * scale
