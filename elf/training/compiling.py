"""Compiles the network that is trained: its pointwise work is fused into few kernels.

A captured step then has half the kernels. Compiling costs minutes, so it is asked for, it is kept
on disk from run to run, and it is for training alone: a validation or a sample picture, whose
shapes are others, would each pay for it again.
"""

import importlib.util
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from elf.errors import ElfError

Scope = Literal["blocks", "full"]

BLOCKS = ("ResnetBlock2D", "Transformer2DModel")
"""Classes of diffusers' UNets that are compiled as they stand; blocks of one shape share code."""

COSTS = {
    "blocks": "the UNet's blocks: about half a minute",
    "full": "the whole UNet: two to five minutes",
}
VARIANTS = 512
"""Variants of one function that are compiled before torch gives up; buckets times blocks."""


def compile_network(
    unet: Any, scope: Scope, device: torch.device, backend: str = "inductor"
) -> None:
    """Let a UNet be compiled when it first sees a shape, in place; names stay what they were.

    Args:
        unet: With its adapter.
        scope: ``blocks`` for each block by itself, ``full`` for the network as one.
        device: Where it will work.
        backend: torch's.

    Raises:
        ElfError: If there is no Triton for a GPU.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ElfError(
            "model.torch_compile needs Triton: pip install triton (triton-windows on Windows), "
            "or set it to null"
        )
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * VARIANTS)
    modules = [unet] if scope == "full" else blocks_of(unet)
    for module in modules:
        module.compile(dynamic=False, backend=backend)


def blocks_of(unet: nn.Module) -> list[nn.Module]:
    """Return the modules that are compiled each by itself."""
    return [module for module in unet.modules() if type(module).__name__ in BLOCKS]


def notice(scope: Scope) -> str:
    """Return what it costs, to be said before it is paid."""
    where = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
    return (
        f"Compiling {COSTS[scope]} for each shape of a bucket's batches when it first comes; "
        f"later runs find most of it in {where}"
    )


def cache_folder() -> Path:
    """Return where compiled code is kept unless TORCHINDUCTOR_CACHE_DIR says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elf" / "inductor"


def uncompiled() -> AbstractContextManager[Any]:
    """Run what is compiled as it was written."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
