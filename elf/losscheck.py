"""A loss that is not finite stops the run; to look at it waits for the device, so it is kept."""

from collections.abc import Callable

from torch import Tensor, isfinite

from elf.errors import ElfError


class LossCheck:
    """Losses that nobody has looked at yet."""

    def __init__(self, before: Callable[[], str]) -> None:
        """Begin with none.

        Args:
            before: Says which checkpoint is from before the loss.
        """
        self._before = before
        self._unchecked: list[tuple[Tensor, Tensor, int, list[str]]] = []

    def add(self, loss: Tensor, shared: Tensor, step: int, ids: list[str]) -> None:
        """Keep a loss.

        Args:
            loss: Of this process's batch.
            shared: The mean of all processes'; if one of them stopped alone, the others would wait
                for it.
            step: Optimizer steps before it.
            ids: Of this process's pictures.
        """
        self._unchecked.append((loss, shared, step, ids))

    def check(self) -> None:
        """Look at the losses that were kept.

        Raises:
            ElfError: If one is not finite, with its step and pictures.
        """
        while self._unchecked:
            loss, shared, step, ids = self._unchecked.pop(0)
            if isfinite(shared):
                continue
            whose = f"pictures {', '.join(ids)}"
            if isfinite(loss):
                whose = "the pictures that another process names"
            raise ElfError(
                f"the loss is {float(shared)} at step {step} ({whose}); {self._before()}. Lower "
                "the learning rate, or train in 32-true"
            )
