"""The error of each sample's prediction: squared or Huber, everywhere or within a mask.

Shapes: B samples, C latent channels, h × w latent pixels, T training timesteps.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elf.objective.weights import signal_to_noise

Error = Literal["mse", "huber", "smooth_l1"]
Schedule = Literal["constant", "exponential", "snr"]


@dataclass(frozen=True)
class HuberConfig:
    """How far the Huber errors are quadratic (Khrapov et al. 2024, arXiv 2403.16728).

    Attributes:
        c: Where the error turns from quadratic to linear, in the units of the latents.
        schedule: c at all timesteps (constant); falling as c^(t / T) from 1 (exponential); or
            (1 − c) / (1 + σ)² + c with σ² = 1 / SNR (snr). Noisy timesteps have outliers.
    """

    c: float = 0.1
    schedule: Schedule = "snr"

    def problem(self) -> str:
        """Return what makes no sense, behind the key; an empty string if all does."""
        return "" if 0 < self.c <= 1 else f".c {self.c} must be above 0, and at most 1"

    def thresholds(
        self, timesteps: Int[Tensor, " B"], alphas_cumprod: Float[Tensor, " T"]
    ) -> Float[Tensor, " B"]:
        """Return the c of each sample."""
        if self.schedule == "exponential":
            return self.c ** (timesteps / len(alphas_cumprod))
        if self.schedule == "snr":
            sigma = signal_to_noise(timesteps, alphas_cumprod).rsqrt()
            return (1 - self.c) / (1 + sigma).square() + self.c
        return torch.full(timesteps.shape, self.c, device=timesteps.device)


def training_error(
    kind: Error,
    prediction: Float[Tensor, "B C h w"],
    wanted: Float[Tensor, "B C h w"],
    c: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, "B C h w"]:
    """Return the error of each value, in float32 whatever the inputs are.

    With d their difference: d² (mse); 2c(√(d² + c²) − c) (huber), which is d² near 0 and 2c|d|
    far off; 2(√(d² + c²) − c) (smooth_l1), which is 2|d| far off (Khrapov et al. 2024, equation
    7; Charbonnier et al. 1997).

    Args:
        kind: Which.
        prediction: What the network says.
        wanted: What it is to say.
        c: Thresholds of the Huber errors.
    """
    difference = prediction.float() - wanted.float()
    if kind == "mse":
        return difference.square()
    assert c is not None, "the Huber errors have thresholds"
    c = c.view(-1, 1, 1, 1)
    beyond = (difference.square() + c.square()).sqrt() - c
    return 2 * c * beyond if kind == "huber" else 2 * beyond


def reduce_error(
    error: Float[Tensor, "B C h w"],
    mask: Float[Tensor, "B h w"] | None = None,
    outside: float = 0.0,
    by_area: bool = False,
) -> Float[Tensor, " B"]:
    """Return the mean error of each sample, weighted by its mask m: mean(m · error).

    Args:
        error: Of each value.
        mask: From 0 to 1; 1 is trained on.
        outside: The weight where the mask is 0: m becomes m + outside · (1 − m).
        by_area: Divide by the mean of m, so that a small mask's picture counts as any other.
            (One whose mask is 0 everywhere counts 0.)
    """
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    mask = mask + outside * (1 - mask)
    masked = (error * mask[:, None]).mean(dim=(1, 2, 3))
    if not by_area:
        return masked
    return masked / mask.mean(dim=(1, 2)).clamp(min=1e-6)
