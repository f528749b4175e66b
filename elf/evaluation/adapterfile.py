"""An adapter that is evaluated: what it is, what its run said of its base, and its hash."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from elf import adapters
from elf.adapters import AdapterConfig
from elf.checkpoints import weights_hash
from elf.errors import ElfError
from elf.export import read_adapter, read_origin


@dataclass(frozen=True)
class AdapterFile:
    """An adapter from a run's folder, a checkpoint, or an exported file.

    Attributes:
        path: Where it is.
        config: What was trained.
        state: Its tensors by ``{part}.{name}``.
        options: What its run said of the base (``prediction_type`` …).
        base_sha256: Of the UNet that it was trained on.

    A file that another program wrote says neither: it has no options, and None.
    """

    path: str
    config: AdapterConfig
    state: dict[str, Tensor]
    options: dict[str, Any]
    base_sha256: str | None

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that the adapter does to its base."""
        described = json.dumps(adapters.describe(self.config)) + weights_hash(self.state)
        return hashlib.sha256(described.encode()).hexdigest()

    def refuse_other_base(self, sha256: str, name: str) -> None:
        """Refuse to be put into another base than that of the training.

        Raises:
            ElfError: If the run says that it was trained on another UNet.
        """
        if self.base_sha256 is not None and self.base_sha256 != sha256:
            raise ElfError(
                f"model.adapter: {self.path} was trained on the UNet {self.base_sha256[:12]}…, and "
                f"model.base {name} has {sha256[:12]}…; name the base of its run"
            )


def open_adapter(path: str, base: str | None = None) -> AdapterFile:
    """Read an adapter.

    Args:
        path: A run's folder, a checkpoint, or a file of diffusers' or of kohya's form.
        base: The base, by whose layers a file in kohya's form is read.

    Raises:
        ElfError: If it is none, not finite, or does not fit the base.
    """
    config, state = read_adapter(path, base)
    options, base_sha256 = read_origin(path)
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ElfError(
                f"model.adapter: {path}: {key} is not finite; take an earlier checkpoint"
            )
    return AdapterFile(path, config, state, options, base_sha256)
