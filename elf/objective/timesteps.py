"""Which timesteps training sees: a distribution, as the inverse of its cumulative function.

A sample's timestep is ``timesteps_at(u)`` of one uniform number u. So a distribution is one
monotone function, and strata of equal probability are its values at equally spaced u.

Shapes: B samples, K strata. T is the number of timesteps.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elf.errors import ElfError

Distribution = Literal["uniform", "logit_normal", "mode", "cosmap"]


@dataclass(frozen=True)
class TimestepConfig:
    """Which timesteps are trained on, and how often.

    Attributes:
        distribution: uniform; logit_normal (also called sigmoid), mode or cosmap (Esser et al.
            2024, "Scaling Rectified Flow Transformers", section 3.1), of t / T.
        first: The least noisy timestep trained on.
        last: The noisiest; null takes the base's last.
        mean: Of the normal variable of logit_normal; above 0 prefers noise.
        std: Its standard deviation.
        mode_scale: s of mode, −1 to 1.75; above 0 prefers the middle.
        shift: Moves t / T to shift · t / (1 + (shift − 1) t) (ibid., equation 23): above 1 prefers
            noise, as large pictures need it.
    """

    distribution: Distribution = "uniform"
    first: int = 0
    last: int | None = None
    mean: float = 0.0
    std: float = 1.0
    mode_scale: float = 1.29
    shift: float = 1.0

    def problem(self) -> str:
        """Return what makes no sense, behind the key; an empty string if all does."""
        if self.first < 0:
            return f".first {self.first} is before the first timestep: at least 0"
        if self.last is not None and self.last < self.first:
            return f".last {self.last} is before first ({self.first})"
        if self.std <= 0:
            return f".std {self.std} must be above 0"
        if not -1 <= self.mode_scale <= 1.75:
            return f".mode_scale {self.mode_scale} must be from -1 to 1.75"
        if self.shift <= 0:
            return f".shift {self.shift} must be above 0; 1 moves nothing"
        return ""


def bounds(config: TimestepConfig, count: int) -> tuple[int, int]:
    """Return the first and the last of ``count`` timesteps that are trained on.

    Raises:
        ElfError: If the base has no such timesteps.
    """
    last = count - 1 if config.last is None else config.last
    if max(config.first, last) >= count:
        raise ElfError(
            f"model.objective.timesteps: {config.first} to {last} is beyond the base's last "
            f"timestep, {count - 1}"
        )
    return config.first, last


def timesteps_at(u: Float[Tensor, " B"], config: TimestepConfig, count: int) -> Int[Tensor, " B"]:
    """Return the timesteps at the quantiles u of the distribution, of ``count`` timesteps.

    Args:
        u: From 0 to 1 (not included); in float64, or the last timesteps may not be reached.
        config: The distribution.
        count: T.
    """
    first, last = bounds(config, count)
    share = _quantile(u, config)
    if config.shift != 1:
        share = config.shift * share / (1 + (config.shift - 1) * share)
    number = last - first + 1
    return first + (share * number).long().clamp(0, number - 1)


def _quantile(u: Float[Tensor, " B"], config: TimestepConfig) -> Float[Tensor, " B"]:
    if config.distribution == "logit_normal":
        return torch.sigmoid(config.mean + config.std * torch.special.ndtri(u))
    if config.distribution == "mode":  # the paper's falls from 1 to 0; of 1 − u it rises
        rest = 1 - u
        return 1 - rest - config.mode_scale * (torch.cos(torch.pi / 2 * rest).square() - 1 + rest)
    if config.distribution == "cosmap":
        return 1 - 1 / (torch.tan(torch.pi / 2 * u) + 1)
    return u


def strata(number: int, config: TimestepConfig, count: int) -> Int[Tensor, " K"]:
    """Return the timesteps in the middles of K parts of equal probability: a fixed quadrature."""
    middles = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    return timesteps_at(middles, config, count)
