"""What layers see of data: the moments of their inputs, and the gradients of their weights.

Sums are kept on the CPU: of SDXL's attention they take gigabytes, which a card of 8 GB has not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

Summed = Callable[[Tensor], Tensor]
"""Returns the sum of a tensor over all processes."""


class Moments:
    """Mean and scatter Σ (x − x̄)(x − x̄)ᵀ of rows, brought up to date by parts (Chan et al. 1979).

    Attributes:
        count: Number of rows so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(())
        self._scatter = torch.zeros(())

    def add(self, rows: Float[Tensor, "n in"]) -> None:
        """Add rows; their products are made where they are."""
        rows = rows.float()
        mean = rows.mean(0)
        centred = rows - mean
        self._merge(len(rows), mean.cpu(), (centred.T @ centred).cpu())

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        step = mean - self._mean
        self._scatter = self._scatter + scatter
        if self.count:
            self._scatter.addr_(step, step, alpha=self.count * count / total)
        self._mean = self._mean + step * (count / total)
        self.count = total

    def of_all(self, summed: Summed) -> "Moments":
        """Return the moments of all processes' rows together."""
        result = Moments()
        result.count = int(summed(torch.tensor(float(self.count), dtype=torch.float64)))
        result._mean = summed(self._mean * self.count) / result.count
        off = self._mean - result._mean
        result._scatter = summed(self._scatter.addr(off, off, alpha=self.count))
        return result

    def covariance(self) -> Float[Tensor, "in in"]:
        """Return the rows' covariance."""
        return self._scatter / self.count

    def second(self) -> Float[Tensor, "in in"]:
        """Return the rows' second moment E[x xᵀ]."""
        return self.covariance().addr(self._mean, self._mean)


@contextmanager
def input_moments(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Moments]]:
    """Gather the moments of layers' inputs in all passes for as long as it lasts.

    Layers that are given the same tensor share theirs: queries, keys and values of an attention,
    and all that sees the text. The order of passes through a network is always the same, so those
    that share in one pass do so in each.

    Yields:
        The moments of each layer that has seen an input, by its name.
    """
    found: dict[str, Moments] = {}
    seen: Any = WeakTensorKeyDictionary()

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs = arguments[0]
            moments, version = seen.get(inputs, (None, None))
            if moments is None or version != inputs._version:
                moments = found.setdefault(name, Moments())
                moments.add(inputs.detach().flatten(0, -2))
                seen[inputs] = (moments, inputs._version)
            found[name] = moments

        return see

    handles = [layer.register_forward_pre_hook(look(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class _Watched(torch.autograd.Function):
    """A layer's output as it is; its gradient is shown, with the layer's input, on its way back."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, anchor: Tensor, show: Any) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.show = show
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.show(gradients[0], *ctx.saved_tensors)
        return gradients[0], None, None, None


@contextmanager
def weight_gradients(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Gather the gradients of layers' weights in all backward passes for as long as it lasts.

    The weights stay frozen, and may be quantised: G = Σ g xᵀ is made of an output's gradient and
    the input, one layer at a time.

    Yields:
        The sum of each layer's (out, in) that a gradient has reached, by its name, in float32.
    """
    found: dict[str, Tensor] = {}
    anchor = torch.zeros((), requires_grad=True)  # else the first layers would take no gradient

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def show(gradient: Tensor, inputs: Tensor) -> None:
            product = gradient.flatten(0, -2).float().T @ inputs.flatten(0, -2).float()
            found[name] = found.get(name, 0) + product.cpu()

        def watch(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            watched: Tensor = _Watched.apply(output, arguments[0], anchor, show)
            return watched

        return watch

    handles = [layer.register_forward_hook(look(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
