"""Averages of the weights over the steps: what is evaluated, sampled from and exported.

Training goes on with its own weights; a checkpoint holds both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from elf.errors import ElfError


@dataclass(frozen=True)
class EMAConfig:
    """An exponential moving average of the adapter (Polyak & Juditsky 1992).

    Attributes:
        decay: Share of the average that stays at each step; 0.999 averages over 1,000 steps.
        warmup: Begin with a smaller one, min(decay, (1 + n) / (10 + n)) after n steps, so that a
            short run's average is not mostly the fresh adapter.
        every_n_steps: Steps between two updates; the decay is of each update.
    """

    decay: float = 0.999
    warmup: bool = True
    every_n_steps: int = 1

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ElfError: With the key.
        """
        if not 0 <= self.decay < 1:
            raise ElfError(f"model.ema.decay {self.decay} must be at least 0 and below 1")
        if self.every_n_steps < 1:
            raise ElfError(f"model.ema.every_n_steps {self.every_n_steps} must be at least 1")

    def decay_at(self, updates: int) -> float:
        """Return the decay of the update after a number of updates."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay


Parameters = Callable[[], Mapping[str, Tensor]]
"""Returns what is trained by name; a network that moves to a device has new tensors there."""


class MovingAverage:
    """The average of some parameters; ``update`` after each optimizer step.

    Args:
        config: How it moves.
        parameters: What is averaged, from its present values on.
    """

    def __init__(self, config: EMAConfig, parameters: Parameters) -> None:
        self.config = config
        self._parameters = parameters
        self.averages: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begin again, from the parameters' present values."""
        self.averages = {name: value.detach().clone() for name, value in self._parameters().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters, if ``step`` (from 1) is one to do so."""
        if step % self.config.every_n_steps:
            return
        decay = self.config.decay_at(step // self.config.every_n_steps - 1)
        values = self._parameters()
        averages = {name: self.averages[name].to(value.device) for name, value in values.items()}
        torch._foreach_lerp_(list(averages.values()), list(values.values()), 1 - decay)
        self.averages = averages

    @torch.no_grad()
    def put(self) -> None:
        """Give the parameters the averages' values."""
        for name, value in self._parameters().items():
            value.copy_(self.averages[name])

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Take over averages that were saved."""
        self.averages = {name: averages[name].clone() for name in self.averages}


class EvaluatedWeights:
    """The weights that are validated, sampled from and exported, where they are not those trained.

    They are a moving average, or what schedule-free optimizers say.

    Args:
        parameters: What is in training.
        average: Their moving average, if there is one.
        optimizers: Returns the optimizers of the run.
    """

    def __init__(
        self,
        parameters: Parameters,
        average: MovingAverage | None,
        optimizers: Callable[[], Sequence[Optimizer]],
    ) -> None:
        self._parameters = parameters
        self._average = average
        self._optimizers = optimizers
        self._kept: dict[str, Tensor] | None = None  # those in training, while others are in place

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put them into the parameters for as long as it lasts; then those in training, bit by bit.

        Within another such time nothing is changed.
        """
        schedule_free = [each for each in self._optimizers() if is_schedule_free(each)]
        if self._kept is not None or (self._average is None and not schedule_free):
            yield
            return
        self._kept = {name: value.clone() for name, value in self._parameters().items()}
        try:
            with torch.no_grad():
                if self._average is not None:
                    self._average.put()
                else:
                    put_evaluated(schedule_free)
            yield
        finally:
            with torch.no_grad():
                for name, value in self._parameters().items():
                    value.copy_(self._kept[name])
            self._kept = None

    def trained(self) -> dict[str, Tensor]:
        """Return the weights in training, whatever is in place (not copied)."""
        return dict(self._parameters()) if self._kept is None else dict(self._kept)

    def evaluated(self) -> dict[str, Tensor] | None:
        """Return a copy of the weights that are evaluated; None if they are those in training."""
        with self.in_place():
            if self._kept is None:
                return None
            return {name: value.clone() for name, value in self._parameters().items()}


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether an optimizer trains other weights than it wants evaluated (Defazio et al. 2024)."""
    return callable(getattr(optimizer, "eval", None)) and callable(
        getattr(optimizer, "train", None)
    )


def put_evaluated(optimizers: Sequence[Optimizer]) -> None:
    """Let schedule-free optimizers put the weights they want evaluated into the parameters.

    They would compute those in training back from these, which rounds: whoever calls this keeps
    a copy. So the optimizers are told that they train again, which computes nothing on its own.
    """
    for optimizer in optimizers:
        optimizer.eval()  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            group["train_mode"] = True
