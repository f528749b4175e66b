"""A few real steps with a batch that is made up, to set measured beside predicted."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elf.kernels import can_compile
from elf.planning.steps import Choice, PlannedTraining
from elf.preparation.buckets import Size
from elf.stepping import Stepper
from elf.training.building import adapter_optimizer, build

IN_A_ROW = 4
"""Steps that are timed on a GPU, after the first; one alone would wait for the processor's part."""


class Measured(NamedTuple):
    """What steps took.

    Attributes:
        seconds: Of a later step's passes and update.
        first: Seconds of the first step, graphs captured.
        reserved: Bytes that torch reserved on the GPU at the peak; None on a CPU.
    """

    seconds: float
    first: float
    reserved: int | None


def probe(
    training: PlannedTraining,
    choice: Choice,
    size: Size,
    device: torch.device,
    passes: int,
    captured: bool,
    limit: float | None,
    algorithm: str | None,
) -> Measured:
    """Take a few optimizer steps, with weights and optimizer as in training.

    Args:
        training: What is trained.
        choice: How.
        size: Width and height of the pictures, px.
        device: Where.
        passes: Accumulated for a step.
        captured: Whether passes are captured as CUDA graphs, on a GPU.
        limit: Of the gradients' norm.
        algorithm: Of clipping.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    built = build(
        training.base,
        training.adapter,
        training.objective,
        training.dtype,
        training.text_states,
        choice.gradient_checkpointing,
        choice.quantization,
        device,
        fused=training.fused and can_compile(device),
    )
    denoiser = built.denoiser.to(device)
    optimizer = adapter_optimizer(denoiser, built.injected, choice.optimizer, training.rates)
    if hasattr(optimizer, "train"):  # schedule-free
        optimizer.train()

    def errors(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        half = training.dtype != torch.float32
        with torch.autocast(device.type, training.dtype, enabled=half, cache_enabled=False):
            return denoiser.training_errors(batch)

    scaled = training.dtype == torch.float16
    stepper = Stepper(
        errors,
        denoiser.trained_parameters(),
        optimizer,
        accumulation=passes,
        limit=limit,
        algorithm=algorithm,
        scaler=torch.amp.GradScaler(device.type) if scaled else None,
        graphs=captured and on_gpu,
        changed=denoiser.refresh_norms,
    )
    batch = filled(training.batch(choice.batch, size, built), device)
    first, later = (
        _timed(stepper, batch, passes, device, steps) for steps in (1, IN_A_ROW if on_gpu else 1)
    )
    reserved = torch.cuda.max_memory_reserved(device) if on_gpu else None
    stepper.passes.release()
    return Measured(later, first, reserved)


def _timed(
    stepper: Stepper, batch: Mapping[str, Any], passes: int, device: torch.device, steps: int
) -> float:
    """Return the seconds of a step, of some that nothing waits for in between."""
    synchronize: Callable[[], None] = lambda: None  # noqa: E731
    if device.type == "cuda":
        synchronize = torch.cuda.synchronize
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        for _ in range(passes):
            stepper(batch)
        stepper.step()
    synchronize()
    return (time.perf_counter() - start) / steps


def filled(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch on a device, with normal numbers; counts and tokens are 1, rows the first."""
    made: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Mapping):
            made[name] = filled(value, device)
        elif name == "preserved":
            made[name] = torch.arange(len(value), device=device)
        elif name in ("mask", "loss_weight") or not value.is_floating_point():
            made[name] = torch.ones_like(value, device=device)
        else:
            made[name] = torch.randn_like(value, device=device)
    return made
