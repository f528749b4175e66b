"""A loss that is not finite stops the run; to look at it waits for the device, so it is kept."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from elf.errors import ElfError
from elf.training.arrivals import Arrivals

UNCHECKED = 8
"""Losses that may wait; the oldest of more is waited for."""


class LossCheck:
    """Losses that nobody has looked at yet."""

    def __init__(self, before: Callable[[], str], samples: str = "pictures") -> None:
        """Begin with none.

        Args:
            before: Says which checkpoint is from before the loss.
            samples: What a batch is of.
        """
        self._before, self._samples = before, samples
        self._unchecked: Arrivals[tuple[int, list[str]]] = Arrivals(UNCHECKED)

    def add(self, loss: Tensor, shared: Tensor, step: int, ids: list[str]) -> None:
        """Keep a loss.

        Args:
            loss: Of this process's batch.
            shared: The mean of all processes'; if one of them stopped alone, the others would wait
                for it.
            step: Optimizer steps before it.
            ids: Of this process's samples.
        """
        self._unchecked.send(torch.stack([loss, shared]), (step, ids))

    def check(self, wait: bool = True) -> None:
        """Look at the losses that were kept.

        Args:
            wait: For all of them; otherwise those that a GPU is at work on are left for later.

        Raises:
            ElfError: If one is not finite, with its step and samples.
        """
        for values, (step, ids) in self._unchecked.take(wait):
            loss, shared = values.tolist()
            if math.isfinite(shared):
                continue
            whose = f"{self._samples} {', '.join(ids)}"
            if math.isfinite(loss):
                whose = f"the {self._samples} that another process names"
            raise ElfError(
                f"the loss is {shared} at step {step} ({whose}); {self._before()}. Lower "
                "the learning rate, or train in 32-true"
            )
