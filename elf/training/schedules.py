"""Learning rate schedules whose length is the run's own, as pure functions of the step."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from elf.errors import ElfError

Shape = Literal["constant", "linear", "cosine", "polynomial", "inverse_sqrt"]


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes over the run, as a factor of the optimizer's.

    Attributes:
        shape: After the warm-up: constant; falling to ``end`` in a line, as half a cosine
            (Loshchilov & Hutter 2017, SGDR), or as a polynomial; or as 1 / √step (Vaswani et al.
            2017), which knows no end.
        warmup: Steps in which the rate rises to its full value; below 1, their share of the run.
        cycles: Times that the falling shapes begin anew, at the full rate.
        end: The last factor, 0-1.
        power: Of the polynomial.
        total_steps: Length; null takes the run's own.
    """

    shape: Shape = "constant"
    warmup: float = 0.0
    cycles: int = 1
    end: float = 0.0
    power: float = 2.0
    total_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ElfError: With the key.
        """
        for key, fine, wanted in (
            ("warmup", self.warmup >= 0, "at least 0"),
            ("cycles", self.cycles >= 1, "at least 1"),
            ("end", 0 <= self.end <= 1, "a factor from 0 to 1"),
            ("power", self.power > 0, "above 0"),
            ("total_steps", self.total_steps is None or self.total_steps >= 1, "at least 1"),
        ):
            if not fine:
                raise ElfError(f"model.schedule.{key} {getattr(self, key)} must be {wanted}")


def warmup_steps(config: ScheduleConfig, total: int) -> int:
    """Return the steps of the warm-up in a schedule of ``total`` steps."""
    return round(config.warmup * total if config.warmup < 1 else config.warmup)


def factor(step: int, config: ScheduleConfig, total: int) -> float:
    """Return the factor of the learning rate for the step after ``step`` steps, of ``total``."""
    warmup = warmup_steps(config, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.shape == "constant":
        return 1.0
    if config.shape == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / max(step, warmup, 1))
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    within = 1.0 if done == 1.0 else (done * config.cycles) % 1.0
    left = 1 - within
    if config.shape == "cosine":
        left = (1 + math.cos(math.pi * within)) / 2
    elif config.shape == "polynomial":
        left = float(left**config.power)
    return config.end + (1 - config.end) * left


def run_length(
    max_steps: int,
    max_epochs: int | None,
    batches: int,
    limit: int | float | None,
    accumulation: int,
) -> int:
    """Return the optimizer steps of a run; -1 if it has no end.

    Args:
        max_steps: As the trainer has it; -1 for none.
        max_epochs: As the trainer has it; None or -1 for none.
        batches: Of an epoch.
        limit: The trainer's limit of batches an epoch, a number or a share.
        accumulation: Batches of a step; the last of an epoch may have fewer.
    """
    if max_epochs is None or max_epochs < 0:
        return max_steps
    if isinstance(limit, float):
        batches = int(batches * limit)
    elif limit is not None:
        batches = min(batches, limit)
    steps = -(-batches // accumulation) * max_epochs
    return steps if max_steps < 0 else min(steps, max_steps)


def length(config: ScheduleConfig, steps: int) -> int | None:
    """Return the steps that a schedule spans in a run of so many; None if it has no end.

    Raises:
        ElfError: If it has one and the run has none, or would be over before the run at a rate of
            0, or the run before its warm-up.
    """
    total = config.total_steps or steps
    endless = config.shape in ("constant", "inverse_sqrt")
    if total < 1 and not endless:
        raise ElfError(
            f"model.schedule.shape {config.shape}: the run has no known length; set "
            "trainer.max_steps or trainer.max_epochs"
        )
    if total < steps and config.end == 0 and not endless:
        raise ElfError(
            f"model.schedule.total_steps {total} is less than the run's {steps} steps, the last of "
            "which would train at a rate of 0; leave it out, or give an end above 0"
        )
    if total < 1 and 0 < config.warmup < 1:
        raise ElfError(
            f"model.schedule.warmup {config.warmup} is a share of a run that has no known length; "
            "give steps, or set trainer.max_steps"
        )
    if config.warmup >= total > 0:
        raise ElfError(
            f"model.schedule.warmup {config.warmup:g} is no less than the run's {total} steps: the "
            "full rate would never be reached; give fewer, or a share of the run (0.1)"
        )
    return None if endless and not 0 < config.warmup < 1 else total


def make_schedule(optimizer: Optimizer, config: ScheduleConfig, steps: int) -> LRScheduler | None:
    """Return the schedule of a run of a number of steps; None if the rate never changes.

    Raises:
        ElfError: If it does not fit the run.
    """
    total = length(config, steps) or 1
    if config.shape == "constant" and not config.warmup:
        return None
    return LambdaLR(optimizer, lambda step: factor(step, config, total))


def refuse_short(scheduler: object, steps: int) -> None:
    """Refuse a schedule of torch's that would raise in the middle of the run, where it ends.

    Raises:
        ElfError: If it is over before the run.
    """
    if isinstance(scheduler, OneCycleLR) and scheduler.total_steps < steps:
        raise ElfError(
            f"model.lr_scheduler.total_steps {scheduler.total_steps} is less than the run's "
            f"{steps} steps, and OneCycleLR cannot go on after its end; set it to trainer.max_steps"
        )


def options(scheduler: object) -> dict[str, Any]:
    """Return the plain arguments that a schedule of torch's was made with, as far as it tells."""
    arguments = inspect.signature(type(scheduler)).parameters
    values = {name: getattr(scheduler, name, None) for name in arguments if name != "last_epoch"}
    return {name: v for name, v in values.items() if isinstance(v, int | float | str)}


def choose(
    optimizer: Optimizer,
    config: ScheduleConfig,
    factory: Callable[[Optimizer], Any] | None,
    steps: int,
) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return the schedule of a run, and what of it must not change when the run goes on.

    Args:
        optimizer: Whose rate it changes.
        config: Elf's own.
        factory: Makes one of torch's, instead.
        steps: Optimizer steps of the run.

    Raises:
        ElfError: If it does not fit the run.
    """
    if factory is None:
        made = make_schedule(optimizer, config, steps)
        return made, {"schedule": {"total_steps": length(config, steps)}}
    scheduler = factory(optimizer)
    refuse_short(scheduler, steps)
    return scheduler, {"lr_scheduler": options(scheduler)}
