"""Writes a pipeline as one file in the layout of the original code, as `elf.bases` reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elf.bases.families import FAMILIES
from elf.bases.ldm import Place, places


def single_file(pipe: Any, family: str, path: Path, marks: tuple[str, ...] = ()) -> Path:
    """Write a pipeline's networks into one ``.safetensors`` file, in float16.

    Args:
        pipe: The pipeline.
        family: Name of its family.
        path: The file.
        marks: Names of empty tensors to add (``v_pred``, ``ztsnr``).
    """
    from safetensors.torch import save_file

    tensors = {mark: torch.zeros(0) for mark in marks}
    for part in FAMILIES[family].parts:
        tensors |= original(getattr(pipe, part), family, part)
    save_file({key: tensor.half().contiguous() for key, tensor in tensors.items()}, path)
    return path


def original(network: Any, family: str, part: str) -> dict[str, Tensor]:
    """Return a network's tensors under their original names and in their original shapes."""
    config = network.config
    settings: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    state: dict[str, Tensor] = network.state_dict()
    found = places(family, part, state, settings)
    by_key: dict[str, list[tuple[Place, Tensor]]] = {}
    for name, place in found.items():
        by_key.setdefault(place.key, []).append((place, state[name]))
    joined = {key: _join(pieces) for key, pieces in by_key.items()}
    if part == "vae":  # its attention is made of 1×1 convolutions
        attentions = [key for key in joined if ".attn_1." in key and joined[key].ndim == 2]
        joined |= {key: joined[key][:, :, None, None] for key in attentions}
    return joined


def _join(pieces: list[tuple[Place, Tensor]]) -> Tensor:
    ordered = sorted(pieces, key=lambda piece: piece[0].third or 0)
    whole = torch.cat([tensor for _, tensor in ordered])
    return whole.T if ordered[0][0].transposed else whole
