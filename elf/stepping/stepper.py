"""The training step of a run: passes, and the update after the last of an accumulation."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from elf.autocasting import without_autocast
from elf.stepping.capture import Recorder
from elf.stepping.gradients import Gradients
from elf.stepping.passes import Passes, Step
from elf.stepping.static import Batch
from elf.stepping.update import Update

Errors = Callable[[Batch], tuple[Tensor, Tensor]]


class Stepper:
    """Trains parameters by the errors of batches.

    Args:
        errors: Returns each sample's error (B,), as it is and as it counts.
        parameters: What is trained.
        optimizer: Trains it.
        accumulation: Batches for an optimizer step.
        processes: How many there are, each with its own batches.
        limit: Of the gradients, as `Update` takes it.
        algorithm: Of clipping.
        scaler: Of an fp16 loss.
        graphs: Whether to capture CUDA graphs.
        changed: Called before a pass if someone else changed the parameters since the last.

    Attributes:
        passes: The passes.
        update: The update.
    """

    def __init__(
        self,
        errors: Errors,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        accumulation: int = 1,
        processes: int = 1,
        limit: float | None = None,
        algorithm: str | None = None,
        scaler: Any = None,
        graphs: bool = False,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._errors = errors
        self._accumulation = accumulation
        self._processes = processes
        self._scaler = scaler
        self._changed = changed
        self._gradients = Gradients(parameters)
        self._device = self._gradients.buffer.device
        self._versions: list[int] = []
        # Each with memory of its own, so that the passes' can be given up.
        passes, update = (Recorder(self._device) if graphs else None for _ in range(2))
        self.passes = Passes(self._pass, self._gradients, passes)
        self.update = Update(optimizer, self._gradients, limit, algorithm, scaler, update)

    def __call__(self, batch: Batch) -> Step:
        """Add a batch's gradients; what is returned lasts until the next call."""
        self._gradients.attach()
        versions = [parameter._version for parameter in self._gradients.parameters]
        if versions != self._versions:
            self._versions = versions
            self._changed()
        return self.passes(batch)

    def step(self) -> Tensor:
        """Take an optimizer step, and return the norm of the gradients before clipping."""
        if self._processes > 1:
            self._gradients.average()
        return self.update()

    def _pass(self, batch: Batch) -> Step:
        errors, weighted = self._errors(batch)
        loss = weighted.mean()
        scaled = loss / self._accumulation
        if self._scaler is not None:
            scaled = self._scaler.scale(scaled)
        with without_autocast(self._device):  # types are those of the forward
            self._gradients.add(scaled)
        return Step(loss.detach(), errors.detach())
