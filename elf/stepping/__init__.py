"""A training step as two functions: a batch's gradients, and the update that they all lead to.

On a GPU both are CUDA graphs: what a small batch's step waits for is the launch of its kernels, a
few thousand of them, and a graph is launched once. Nothing here knows of Lightning.
"""

from elf.stepping.gradients import Gradients
from elf.stepping.passes import Passes, Step
from elf.stepping.stepper import Stepper
from elf.stepping.update import Update

__all__ = ["Gradients", "Passes", "Step", "Stepper", "Update"]
