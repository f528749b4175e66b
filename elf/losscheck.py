"""A loss that is not finite stops the run; to look at it waits for the device, so it is kept."""

from torch import Tensor, isfinite

from elf.errors import ElfError


class LossCheck:
    """Losses that nobody has looked at yet."""

    def __init__(self) -> None:
        self._unchecked: list[tuple[Tensor, int, list[str]]] = []

    def add(self, loss: Tensor, step: int, ids: list[str]) -> None:
        """Keep a loss.

        Args:
            loss: Of a batch.
            step: Optimizer steps before it.
            ids: Of its pictures.
        """
        self._unchecked.append((loss, step, ids))

    def check(self, all_but: int = 0) -> None:
        """Look at the losses that were kept, but for the newest ``all_but``.

        Raises:
            ElfError: If one is not finite, with its step and pictures.
        """
        while len(self._unchecked) > all_but:
            loss, step, ids = self._unchecked.pop(0)
            if not isfinite(loss):
                raise ElfError(
                    f"the loss is {float(loss)} at step {step} (pictures {', '.join(ids)}); the "
                    "last checkpoint is from before. Lower the learning rate, or train in 32-true"
                )
