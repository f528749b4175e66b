"""An adapter that is evaluated, whatever it does, as long as it has numbers."""

import torch

from elf.errors import ElfError
from elf.export.trained import Trained, read_any


def open_adapter(path: str, base: str | None = None) -> Trained:
    """Read an adapter.

    Args:
        path: A run's folder, a checkpoint, or a file of diffusers' or of kohya's form.
        base: The base, by whose layers a file in kohya's form is read.

    Raises:
        ElfError: If it is none, not finite, or does not fit the base.
    """
    trained = read_any(path, base)
    for key, tensor in trained.state.items():
        if not torch.isfinite(tensor).all():
            raise ElfError(
                f"model.adapter: {path}: {key} is not finite; take an earlier checkpoint"
            )
    return trained
