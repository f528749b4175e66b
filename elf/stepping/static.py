"""A batch's tensors at addresses that stay, where a captured graph reads them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Batch = Mapping[str, Any]
Form = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
"""Name, shape and type of each of a batch's tensors: a graph serves batches of one form."""


def tensors_of(batch: Batch, inside: str = "") -> dict[str, Tensor]:
    """Return a batch's tensors, those of mappings in it too, by their names."""
    found: dict[str, Tensor] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            found[f"{inside}{name}"] = value
        elif isinstance(value, Mapping):
            found |= tensors_of(value, f"{inside}{name}.")
    return found


def form_of(batch: Batch) -> Form:
    """Return the form of a batch."""
    tensors = tensors_of(batch)
    return tuple((name, tuple(each.shape), each.dtype) for name, each in tensors.items())


def mapped(batch: Batch, function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return a batch with each of its tensors mapped, those of mappings in it too."""

    def value(each: Any) -> Any:
        if isinstance(each, Tensor):
            return function(each)
        return mapped(each, function) if isinstance(each, Mapping) else each

    return {name: value(each) for name, each in batch.items()}


class StaticBatch:
    """A copy of a batch that takes the values of others of its form.

    Attributes:
        batch: The copy, nested as the batch is; what is no tensor is the first one's.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = mapped(batch, torch.clone)
        self._tensors = list(tensors_of(self.batch).values())

    def take(self, batch: Batch) -> None:
        """Copy a batch's values, in order with all that the device was asked for."""
        if self._tensors:
            torch._foreach_copy_(self._tensors, list(tensors_of(batch).values()))
