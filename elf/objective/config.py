"""The options of the objective, and which of them exclude each other."""

from dataclasses import dataclass, field

import torch

from elf.errors import ElfError
from elf.objective.errors import Error, HuberConfig
from elf.objective.timesteps import TimestepConfig
from elf.objective.weights import Weighting


@dataclass(frozen=True)
class ObjectiveConfig:
    """What training minimises.

    Attributes:
        weighting: Of timesteps: none, min_snr (Hang et al. 2023), debiased (Yu et al. 2024).
        min_snr_gamma: γ of min_snr.
        error: Of the prediction: mse, or huber or smooth_l1, which mind outliers less.
        huber: Where these two turn from quadratic to linear.
        noise_offset: Strength of an offset of each channel's noise, for very dark or bright
            pictures; 0.05 to 0.1 is usual, 0 is off.
        input_perturbation: Strength of noise that the target does not have; 0.1 is usual, 0 is off.
        timesteps: Which are trained on.
        masked: Pictures with a mask are trained on within it.
        unmasked_weight: Weight of what is outside of a mask, 0-1.
        mask_by_area: A small mask's picture counts as much as any other.
    """

    weighting: Weighting = "min_snr"
    min_snr_gamma: float = 5.0
    error: Error = "mse"
    huber: HuberConfig = field(default_factory=HuberConfig)
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    masked: bool = True
    unmasked_weight: float = 0.0
    mask_by_area: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ElfError: With the key.
        """
        problem = ""
        if self.min_snr_gamma <= 0:
            problem = (
                f".min_snr_gamma {self.min_snr_gamma} must be above 0; "
                "to switch it off take weighting: none"
            )
        elif self.noise_offset < 0:
            problem = f".noise_offset {self.noise_offset} is negative; 0 is off"
        elif self.input_perturbation < 0:
            problem = f".input_perturbation {self.input_perturbation} is negative; 0 is off"
        elif not 0 <= self.unmasked_weight <= 1:
            problem = f".unmasked_weight {self.unmasked_weight} must be from 0 to 1"
        elif found := self.timesteps.problem():
            problem = f".timesteps{found}"
        elif found := self.huber.problem():
            problem = f".huber{found}"
        if problem:
            raise ElfError(f"model.objective{problem}")


def refuse_singular(
    config: ObjectiveConfig, prediction_type: str, alphas_cumprod: torch.Tensor
) -> str:
    """Refuse weights that are not finite at the noisiest timestep trained on.

    Args:
        config: The objective.
        prediction_type: Of the base.
        alphas_cumprod: (T,) of the base.

    Returns:
        What else the user should know, in a sentence; an empty string if there is nothing.

    Raises:
        ElfError: If the weight is 0/0 or infinite there.
    """
    last = config.timesteps.last
    last = len(alphas_cumprod) - 1 if last is None else min(last, len(alphas_cumprod) - 1)
    if alphas_cumprod[last] > 0 or config.weighting == "none":
        return ""
    if prediction_type == "epsilon":
        broken = "0/0" if config.weighting == "min_snr" else "infinite"
        raise ElfError(
            f"model.objective.weighting: at timestep {last} the base has no signal (zero-terminal "
            f"SNR), where {config.weighting} of an ε loss is {broken}; take none, or set "
            f"timesteps.last to {last - 1}"
        )
    if config.weighting == "min_snr":
        return (
            f"min_snr gives timestep {last} weight 0 (zero-terminal SNR): it trains nothing there; "
            "weighting: none or debiased does"
        )
    return ""
