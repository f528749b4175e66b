"""What the processes of one run tell each other."""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Return a value of each process, in the order of their ranks; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return [entry for entry in values if entry is not None]


def summed(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the sum of a tensor over all processes, where it is; every process must call it.

    Args:
        tensor: On any device; unchanged.
        device: On which the processes reach each other.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    whole = tensor.to(device, copy=True)
    dist.all_reduce(whole)
    return whole.to(tensor.device)


def give_all(tensors: Iterable[Tensor]) -> None:
    """Copy the first process's tensors into the others', in place; every process must call it."""
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)
