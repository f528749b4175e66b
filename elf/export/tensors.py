"""Tensors on their way into a file: finite, of a type, and doing something at all."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from elf import adapters
from elf.errors import ElfError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
PRECISE = ("lora_magnitude_vector", "dora_scale", ".alpha")
"""Parts of names whose tensors stay float32: to round a magnitude is to round W."""


def refuse_useless(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse an adapter that cannot work.

    Raises:
        ElfError: If a tensor is not finite, or if every update ΔW is zero.
    """
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ElfError(f"{source}: {key} is not finite; export an earlier checkpoint")
    if all(adapters.changes_nothing(part) for part in adapters.by_part(state).values()):
        raise ElfError(f"{source}: the adapter changes nothing (ΔW = 0); train it first")


def cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of a tensor in a file's type.

    Raises:
        ElfError: If a value is too large for it.
    """
    if any(part in key for part in PRECISE):
        dtype = torch.float32
    cast = tensor.detach().to(dtype).contiguous().clone()
    if not torch.isfinite(cast).all():
        raise ElfError(f"{key} overflows in {dtype}; export with --dtype float32")
    return cast
