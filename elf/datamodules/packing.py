"""A batch on its way from the process that read it: all of its tensors as one.

torch hands each tensor over by a file descriptor, for which the receiver asks the sender through a
socket: a dozen small tensors took ten times as long as reading what is in them. Pinned, one is one
piece of memory, too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNED = 64
"""Bytes; a tensor begins at a multiple of them."""


class _Place(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Packed:
    """A batch whose tensors lie in one.

    Attributes:
        data: Their bytes.
        places: Where each lies.
        others: What is no tensor, with None in the tensors' places, to keep the order of the names.
    """

    data: Tensor
    places: tuple[_Place, ...]
    others: Mapping[str, Any]

    def pin_memory(self) -> "Packed":
        """Return it in pinned memory; torch's loader asks for it."""
        return replace(self, data=self.data.pin_memory())

    def batch(self) -> dict[str, Any]:
        """Return the batch; its tensors share the memory."""
        parts = {
            place.name: self.data[place.start : place.end].view(place.dtype).view(place.shape)
            for place in self.places
        }
        return {**self.others, **parts}


def pack(batch: Any) -> Any:
    """Return a batch, packed; what is no batch, as it is."""
    if not isinstance(batch, dict):
        return batch
    tensors = {name: each for name, each in batch.items() if isinstance(each, Tensor)}
    places, end = [], 0
    for name, each in tensors.items():
        start = math.ceil(end / ALIGNED) * ALIGNED
        end = start + each.numel() * each.element_size()
        places.append(_Place(name, each.dtype, tuple(each.shape), start, end))
    packed = Packed(
        torch.zeros(end, dtype=torch.uint8),
        tuple(places),
        {name: None if name in tensors else each for name, each in batch.items()},
    )
    for name, part in packed.batch().items():
        if name in tensors:
            part.copy_(tensors[name])
    return packed
