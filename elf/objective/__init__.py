"""What training minimises: which timesteps, how noised, which error, how weighted."""

from elf.objective.config import ObjectiveConfig, refuse_singular
from elf.objective.drawing import draw
from elf.objective.errors import HuberConfig, reduce_error, training_error
from elf.objective.noising import offset_noise, perturb
from elf.objective.timesteps import TimestepConfig, bounds, strata, timesteps_at
from elf.objective.weights import debiased_weight, min_snr_weight, signal_to_noise, weight

__all__ = [
    "HuberConfig",
    "ObjectiveConfig",
    "TimestepConfig",
    "bounds",
    "debiased_weight",
    "draw",
    "min_snr_weight",
    "offset_noise",
    "perturb",
    "reduce_error",
    "refuse_singular",
    "signal_to_noise",
    "strata",
    "timesteps_at",
    "training_error",
    "weight",
]
