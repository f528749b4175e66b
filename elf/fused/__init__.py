"""A UNet's pointwise work and norms in few kernels, channels last in memory.

A step of a small batch waits for its kernels more than for its products. Here a block of the
network has half of them, and their memory is moved once.
"""

from elf.fused.blocks import fuse

__all__ = ["fuse"]
