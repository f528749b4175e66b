"""How Triton kernels are launched: early, and in sizes that a device has room for.

Early is before the kernel before it has ended (Hopper and later). Each such kernel has a `wait`, or
`wait_for_last` and `begin_next`. As each waits for the end of its forerunner, which waited for its
own, all that ran before is done then. Until then it may read weights, and what was there before a
kernel that waited before it let the next one begin.
"""

import functools
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
@no_type_check
def begin_next(early: tl.constexpr):
    """Let the next kernel begin, wherever this one's programs leave room."""
    if early:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
@no_type_check
def wait_for_last(early: tl.constexpr):
    """Wait for the end of the kernel before, whose output is read."""
    if early:
        tl.extra.cuda.gdc_wait()


@triton.jit
@no_type_check
def wait(early: tl.constexpr):
    """Let the next kernel begin, and wait for the end of the last one."""
    begin_next(early)
    wait_for_last(early)


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    """Whether a device is of Hopper's generation or a later one."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def launch(like: Tensor) -> dict[str, bool]:
    """Return the options of a kernel that waits for the one before it."""
    early = _is_hopper(like.device)
    return {"early": early, "launch_pdl": early}


def power(count: int) -> int:
    """Return the power of two that is not below a count: the sizes that Triton knows."""
    return triton.next_power_of_2(count)  # type: ignore[no-any-return]


@functools.cache
def is_roomy(device: torch.device) -> bool:
    """Whether a program may fill more than 150 KB of shared memory: the large cards, from A100."""
    if device.type != "cuda":
        return False
    properties: Any = torch.cuda.get_device_properties(device)
    return bool(properties.shared_memory_per_block_optin > 150 * 1024)


def fetches_tiles(device: torch.device) -> bool:
    """Whether a program may let the device fetch tiles of a matrix, and has room for three."""
    return is_roomy(device) and _is_hopper(device)


@functools.cache
def processors(device: torch.device) -> int:
    """Return how many multiprocessors a CUDA device has."""
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.multi_processor_count)
