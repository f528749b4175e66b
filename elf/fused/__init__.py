"""A UNet's pointwise work and norms in few kernels, channels last in memory.

A step of a small batch waits for its kernels more than for its products. Here a block of the
network has half of them, and their memory is moved once.
"""

import importlib.util
import warnings

import torch

from elf.fused.blocks import fuse

__all__ = ["can_fuse", "fuse"]


def can_fuse(device: torch.device) -> bool:
    """Whether Triton works for a device: CUDA's, not everywhere on Windows.

    It is tried, as it needs a C compiler and does not support every card; a warning says why not.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    try:
        from elf.fused.pointwise_kernels import gate

        gate(torch.zeros(32, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton has many
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"training without Elf's fused kernels, slower: {reason}", stacklevel=2)
        return False
    return True
