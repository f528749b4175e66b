"""A UNet's pointwise work and norms in few kernels, channels last in memory.

A step of a small batch waits for its kernels more than for its products. Here a block of the
network has half of them, and their memory is moved once.
"""

import importlib.util

import torch

from elf.fused.blocks import fuse

__all__ = ["can_fuse", "fuse"]


def can_fuse(device: torch.device) -> bool:
    """Whether there is Triton for a device: CUDA's, not everywhere on Windows."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None
