"""The parts that a training's memory consists of, and what optimizers keep."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MIB = 1 << 20

WORKSPACES = 64 * MIB
"""cuBLAS keeps a workspace for each stream it is used on, of 32 MiB on Hopper (its documentation of
``cublasSetWorkspace``), 8 MiB before: one for what runs eagerly, one for what is captured."""

GAPS, RECOMPUTING = 0.04, 0.02
"""What the allocator holds beside what is used, as shares of the weights that were read: parts of
these are joined and quantized in place, and what that leaves is not all given back; and more where
activations are recomputed, whose sizes come in another order. Fitted to eight steps. What was used
at the peak of one, of SDXL with checkpointing, 5.586 GiB of 5.996, is known here to 0.4 %."""


def reserve(read: int, recomputing: bool) -> int:
    """Return the bytes that are reserved beside those that are used.

    Args:
        read: Bytes of the weights, before they are quantized.
        recomputing: Whether activations are.
    """
    return WORKSPACES + int((GAPS + RECOMPUTING * recomputing) * read)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on the GPU at the peak of a step, by what they are for.

    Attributes:
        frozen: Weights that are not trained, with text encoders that work in each step.
        trained: The adapter, its gradients, the optimizer's state, and an average if there is one.
        activations: Most of what a pass has alive at a time.
        reserve: Workspaces of libraries, and gaps between all of these.
    """

    frozen: int
    trained: int
    activations: int
    reserve: int = WORKSPACES

    @property
    def total(self) -> int:
        """All of it."""
        return self.frozen + self.trained + self.activations + self.reserve


class State(NamedTuple):
    """What an optimizer keeps.

    Attributes:
        size: Bytes.
        known: Whether this is known of the optimizer; else it is taken for Adam.
    """

    size: int
    known: bool


_BYTES = {
    "PagedAdamW8bit": 2.0,
    "PagedAdam8bit": 2.0,
    "AdamW8bit": 2.0,
    "Adam8bit": 2.0,
    "Lion8bit": 1.0,
    "PagedLion8bit": 1.0,
    "Lion": 4.0,
    "AdamWScheduleFree": 8.0,  # z and the second moment
    "RAdamScheduleFree": 8.0,
    "SGDScheduleFree": 4.0,
    "Prodigy": 16.0,  # two moments, the start, and the sum by which it finds its rate
}
"""Bytes per parameter of optimizers that look at values, which tensors without numbers have not."""

SMALLEST_8BIT = 4096
"""Parameters of fewer elements have a state in float32 (bitsandbytes' ``min_8bit_size``)."""

_SCALES = 4 / 256
"""Bytes per element of the scales of an 8-bit state, one of 4 bytes for 256 elements."""


def optimizer_state(name: str, shapes: Sequence[Sequence[int]]) -> State:
    """Return what an optimizer keeps that cannot be tried.

    Args:
        name: Its class.
        shapes: Of each parameter.
    """
    if name == "Adafactor":  # a row and a column of the second moment (Shazeer & Stern 2018)
        each_kept = [shape[0] + math.prod(shape[1:]) for shape in shapes]
        return State(4 * sum(each_kept), True)
    sizes = [math.prod(shape) for shape in shapes]
    if name not in _BYTES:
        return State(8 * sum(sizes), False)
    each = _BYTES[name]
    if not name.endswith("8bit"):
        return State(int(each * sum(sizes)), True)
    total = sum(n * each * (1 + _SCALES) if n >= SMALLEST_8BIT else n * each * 4 for n in sizes)
    return State(int(total), True)


def bytes_of(tensors: Any) -> int:
    """Return the bytes of tensors."""
    return sum(each.numel() * each.element_size() for each in tensors)


def frozen_bytes(network: nn.Module) -> int:
    """Return the bytes of all that a network holds and that is not trained."""
    frozen = (each for each in network.parameters() if not each.requires_grad)
    return bytes_of(frozen) + bytes_of(network.buffers())


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimizer's state on the device (its counters are numbers)."""
    states: list[Mapping[str, Any]] = list(optimizer.state.values())
    found = [each for state in states for each in state.values() if isinstance(each, Tensor)]
    return bytes_of(found)
