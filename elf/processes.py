"""What the processes of one run tell each other."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from elf.errors import ElfError

T = TypeVar("T")


def place() -> tuple[int, int]:
    """Return how many processes the run has, and which of them this is."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1, 0
    return dist.get_world_size(), dist.get_rank()


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


def together(work: Callable[[], T], refusals: tuple[type[Exception], ...] = (ElfError,)) -> T:
    """Do this process's part of a work; every process must call it.

    Returns:
        What this process's part made, when all have done theirs.

    Raises:
        Exception: In every process the refusal of the first that was refused, if one was.
    """
    refusal = None
    try:
        made = work()
    except refusals as error:
        refusal = (error, error.__cause__)  # the cause of an exception does not travel with it
    for found in gather(refusal):
        if found is not None:
            first, cause = found
            raise first from cause
    return made


def first_opens(is_first: bool, make: Callable[[], T]) -> T | None:
    """Let the first process make what one alone may have; every process must call it.

    Returns:
        What it made, in the first process; None in the others.

    Raises:
        ElfError: In every process with the same words, if it was refused.
    """
    return together(lambda: make() if is_first else None)
