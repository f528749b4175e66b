"""A loss that is not finite stops the run; to look at it waits for the device, so it is kept."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elf.errors import ElfError

UNCHECKED = 8
"""Losses that may wait; the oldest of more is waited for."""


class _Losses(NamedTuple):
    """A loss, and the mean of all processes; on the CPU once an event is ``ready``."""

    values: Tensor
    ready: Any
    step: int
    ids: list[str]


class LossCheck:
    """Losses that nobody has looked at yet."""

    def __init__(self, before: Callable[[], str]) -> None:
        """Begin with none.

        Args:
            before: Says which checkpoint is from before the loss.
        """
        self._before = before
        self._unchecked: deque[_Losses] = deque()

    def add(self, loss: Tensor, shared: Tensor, step: int, ids: list[str]) -> None:
        """Keep a loss.

        Args:
            loss: Of this process's batch.
            shared: The mean of all processes'; if one of them stopped alone, the others would wait
                for it.
            step: Optimizer steps before it.
            ids: Of this process's pictures.
        """
        values = torch.stack([loss, shared])
        if values.device.type != "cuda":
            self._unchecked.append(_Losses(values, None, step, ids))
            return
        host = torch.empty(2, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        ready: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        self._unchecked.append(_Losses(host, ready, step, ids))

    def check(self, wait: bool = True) -> None:
        """Look at the losses that were kept.

        Args:
            wait: For all of them; otherwise those that a GPU is at work on are left for later.

        Raises:
            ElfError: If one is not finite, with its step and pictures.
        """
        while self._unchecked:
            ready = self._unchecked[0].ready
            if ready is not None:
                if not wait and len(self._unchecked) <= UNCHECKED and not ready.query():
                    return
                ready.synchronize()
            values, _, step, ids = self._unchecked.popleft()
            loss, shared = values.tolist()
            if math.isfinite(shared):
                continue
            whose = f"pictures {', '.join(ids)}"
            if math.isfinite(loss):
                whose = "the pictures that another process names"
            raise ElfError(
                f"the loss is {shared} at step {step} ({whose}); {self._before()}. Lower "
                "the learning rate, or train in 32-true"
            )
