"""How long a step takes: each kernel its arithmetic or its traffic, and the time to begin and end.

A roofline (Williams, Waterman & Patterson 2009) with one thing added: a kernel takes some
microseconds even if it has nothing to do, and most of a small batch's step is that.

The three constants are fitted to seven measured points of one H100 80GB (fp16, captured, fused
kernels, rank 16 on the attention): SD1.5 LoRA and DoRA at batch 1 and 8, LoRA with checkpointing,
SDXL with and without it. They are of kernels, not of that card: other cards differ by the figures
in `cards`. The residuals stand in ``docs/planning.md``.
"""

from collections.abc import Iterable

from elf.planning.cards import Card
from elf.planning.kernels import Kernel

MATRIX = 0.5
"""Share of the advertised matrix rate that products reach at these sizes; a product of 8,192 ×
8,192, the best case, reaches 0.77 on an H100 (760 of 989 TFLOP/s)."""

STREAM = 0.9
"""Share of the memory's advertised bandwidth that elementwise kernels reach."""

KERNEL = 4.25e-6
"""Seconds of a kernel within a graph in which it is launched, fills the card, and drains it."""

LAUNCH = 60e-6
"""Seconds that Python and autograd need for an operator outside of a graph: SD1.5's eager step took
160 ms for 2,650 of them on one machine. No more than a hint for another."""

_UPDATE_BYTES = 44
"""Per parameter of an optimizer step in float32: the gradient read for its norm, read and written
for clipping; weight, gradient and two moments read, three of these written; gradients zeroed."""

_UPDATE_KERNELS = 40


def device_seconds(kernels: Iterable[Kernel], card: Card) -> float:
    """Return how long a card is busy with kernels that follow each other at once."""
    total = 0.0
    for kernel in kernels:
        rate = (card.half if kernel.half else card.single) * 1e12 * MATRIX
        moved = kernel.bytes / (card.bandwidth * 1e9 * STREAM)
        total += max(kernel.flops / rate, moved) + kernel.launches * KERNEL
    return total


def step_seconds(
    kernels: list[Kernel], parameters: int, card: Card, passes: int = 1, captured: bool = True
) -> float:
    """Return how long an optimizer step takes, without waiting for data.

    Args:
        kernels: Of a forward and backward pass.
        parameters: That are trained.
        card: Where.
        passes: Accumulated for a step.
        captured: Whether passes are CUDA graphs; else the processor launches each kernel.
    """
    once = device_seconds(kernels, card)
    if not captured:
        once = max(once, len(kernels) * LAUNCH)
    update = parameters * _UPDATE_BYTES / (card.bandwidth * 1e9 * STREAM)
    return passes * once + update + _UPDATE_KERNELS * KERNEL
