"""An adapter's tensors by their names in files, out of a network and into one."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from elf.adapters.factored import NAME
from elf.adapters.norms import refresh_norms
from elf.adapters.presets import Part, canonical
from elf.errors import ElfError


def is_adapter_key(name: str) -> bool:
    """Whether a parameter's name is one of an adapter's."""
    return ".lora_" in name


def file_key(name: str) -> str:
    """Return a parameter's name as files have it: without the adapter's own name.

    Nor with a level that only some versions of transformers have. DoRA's magnitude is stored as
    ``….lora_magnitude_vector.weight``: without the suffix diffusers loads it wrongly.
    """
    return canonical(name.replace(f".{NAME}.", "."))


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's tensors by their names in files (not copied).

    The A₀ and B₀ that PiSSA's update and others' are measured from are among them.
    """
    own = [*network.named_parameters(), *network.named_buffers()]
    return {file_key(name): tensor.detach() for name, tensor in own if is_adapter_key(name)}


def load_adapter_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy an adapter's tensors into a network that has such an adapter.

    Raises:
        ElfError: If the names or shapes differ, with the first that does.
    """
    own = adapter_state(network)
    unknown = sorted(state.keys() ^ own.keys())
    if unknown:
        side = "lacks" if unknown[0] in own else "has"
        raise ElfError(
            f"adapter: the file {side} {unknown[0]} ({len(unknown)} such names); "
            "it was trained with other targets or another kind of adapter"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ElfError(
                    f"adapter: {name} has shape {tuple(state[name].shape)} in the file and "
                    f"{tuple(tensor.shape)} in the model; is it of another base or rank?"
                )
            tensor.copy_(state[name])
    refresh_norms(network)


def by_part(state: Mapping[str, Tensor]) -> dict[Part, dict[str, Tensor]]:
    """Return the tensors of a checkpoint or a file by the network that they are of.

    Args:
        state: Tensors by ``{part}.{name in files}``.

    Raises:
        ElfError: If a tensor is of none of the networks that Elf trains.
    """
    parts: dict[Part, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        first, _, name = key.partition(".")
        part = next((part for part in get_args(Part) if part == first), None)
        if part is None:
            raise ElfError(
                f"adapter: {key} is of no network that Elf trains ({', '.join(get_args(Part))})"
            )
        parts.setdefault(part, {})[canonical(name)] = tensor
    return parts
