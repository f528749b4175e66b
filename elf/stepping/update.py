"""What an optimizer step makes of the gradients: unscaled, measured, clipped, applied, zeroed."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from elf.errors import ElfWarning, first_line
from elf.stepping.capture import Recorder
from elf.stepping.gradients import Gradients
from elf.training.optimization import clip_gradients

CAPTURED = (torch.optim.Adam, torch.optim.AdamW)


def why_not(optimizer: Optimizer) -> str | None:
    """Return why an optimizer's step cannot be captured; None if it can."""
    if type(optimizer) not in CAPTURED:
        return f"{type(optimizer).__name__} keeps numbers of its own on the CPU"
    if not all(group.get("fused") for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} is not fused (fused: true)"
    return None


def fixed_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what a captured step of an optimizer has for good, in each group: all but its rate."""
    changing = ("params", "lr", "capturable")
    return [
        {key: value for key, value in group.items() if key not in changing}
        for group in optimizer.param_groups
    ]


class Update:
    """An optimizer step on the gradients of all batches since the last.

    Args:
        optimizer: Its learning rates may change from step to step.
        gradients: What it reads; they are zero afterwards.
        limit: Largest norm (or value) of the gradients; None clips nothing.
        algorithm: Of clipping, as `clip_gradients` takes it.
        scaler: Of an fp16 loss.
        recorder: Captures the step if it can be; None runs it as it is.

    Attributes:
        replays: Steps that were launched as a graph.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        gradients: Gradients,
        limit: float | None = None,
        algorithm: str | None = None,
        scaler: Any = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._gradients = gradients
        self._limit, self._algorithm = limit, algorithm
        self._scaler = scaler
        self._recorder = recorder if why_not(optimizer) is None else None
        self._replay: Callable[[], None] | None = None
        self._fixed: list[dict[str, Any]] = []
        self._norm = torch.zeros(())
        self._rates: list[Tensor] = []
        self._given: list[float] = []
        self.replays = 0

    def __call__(self) -> Tensor:
        """Take a step, and return the norm of the gradients before they were clipped."""
        if self._recorder is not None and self._replay is None:
            self._replay = self._capture(self._recorder)
        if self._replay is not None and fixed_options(self._optimizer) != self._fixed:
            self._give_up("a schedule changes more of its options than the learning rate")
        if self._replay is None:
            return self._run()
        self._set_rates()
        self._replay()
        self.replays += 1
        return self._norm.clone()

    def _run(self) -> Tensor:
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        norm = clip_gradients(self._gradients.parameters, self._limit, self._algorithm)
        if self._scaler is None:
            self._optimizer.step()
        else:  # leaves the step out if gradients are not finite
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._gradients.buffer.zero_()
        return norm

    def _set_rates(self) -> None:
        given = [float(group["lr"]) for group in self._optimizer.param_groups]
        for rate, old, new in zip(self._rates, self._given, given, strict=True):
            if new != old:
                rate.fill_(new)
        self._given = given

    def _capture(self, recorder: Recorder) -> Callable[[], None] | None:
        self._given = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._rates = [torch.tensor(rate, device=recorder.device) for rate in self._given]
        norms: list[Tensor] = []

        def run() -> None:
            norms[:] = [self._run()]

        try:
            with self._unchanged(), _on_the_device(self._optimizer, self._rates):
                replay = recorder(run)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            self._give_up(f"it cannot be captured: {first_line(error)}")
            return None
        self._norm, self._fixed = norms[0], fixed_options(self._optimizer)
        return replay

    def _give_up(self, reason: str) -> None:
        warnings.warn(
            f"the optimizer's step runs without a CUDA graph from here on: {reason}",
            ElfWarning,
            stacklevel=3,
        )
        self._replay = self._recorder = None

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Take back whatever steps are taken within: all that they change on the device."""
        state, scaler = self._optimizer.state, self._scaler
        if scaler is not None:
            scaler.scale(self._gradients.buffer.new_zeros(()))  # makes its tensors
        known = [*self._gradients.parameters, self._gradients.buffer, *_tensors(state)]
        known += [] if scaler is None else [scaler._scale, scaler._growth_tracker]
        kept = [tensor.detach().clone() for tensor in known]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor in _tensors(state):
                    tensor.zero_()  # as Adam begins, where there was none before
                for tensor, old in zip(known, kept, strict=True):
                    tensor.copy_(old)
            if scaler is not None:
                scaler._per_optimizer_states.clear()


def _tensors(state: Any) -> list[Tensor]:
    return [
        value for values in state.values() for value in values.values() if torch.is_tensor(value)
    ]


@contextmanager
def _on_the_device(optimizer: Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """Let an optimizer read its learning rates from tensors, as a graph has to."""
    groups = optimizer.param_groups
    kept = [(group["lr"], group["capturable"]) for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"], group["capturable"] = rate, True
    try:
        yield
    finally:
        for group, (rate, capturable) in zip(groups, kept, strict=True):
            group["lr"], group["capturable"] = rate, capturable
