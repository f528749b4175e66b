"""Gradient checkpointing: which blocks' activations are recomputed in the backward pass.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". What can be chosen is what has
diffusers' or transformers' flag: in a UNet a block, whose flag is that of its residual blocks, and
each ``Transformer2DModel`` in it; in a text encoder a layer.
"""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from elf.adapters.presets import canonical
from elf.errors import ElfError

FLAG = "gradient_checkpointing"
KEY = "model.gradient_checkpointing"


def checkpoint_blocks(networks: Mapping[str, nn.Module], which: bool | Sequence[str]) -> None:
    """Switch gradient checkpointing on, in place.

    Args:
        networks: By their parts; a UNet's blocks are named without it, others' with it.
        which: True for all blocks, or patterns (fnmatch) of their names. A name takes all that is
            within it, too: ``down_blocks.0`` its attentions.

    Raises:
        ElfError: If a pattern matches nothing, with the nearest names, or if there is none.
    """
    if which is False:
        return
    if isinstance(which, str) or not (which is True or which):
        raise ElfError(f"{KEY} is {which!r}; give true, false, or a list: [down_blocks.0]")
    blocks = {part: named_blocks(part, network) for part, network in networks.items()}
    names = [name for of_part in blocks.values() for name in of_part]
    chosen = set(names) if which is True else _chosen(list(which), names)
    for part, network in networks.items():
        taken = {id(module) for name, module in blocks[part].items() if name in chosen}
        if taken:
            checkpoint_activations(network)
            for module in network.modules():
                if hasattr(module, FLAG) and id(module) not in taken:
                    setattr(module, FLAG, False)


def named_blocks(part: str, network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of which each can be recomputed by itself, by their names."""
    found = {canonical(name): each for name, each in network.named_modules() if hasattr(each, FLAG)}
    if part == "unet":
        return found
    # CLIP's encoder has the flag as well as its layers, but only they look at it.
    inner = {name for name in found if not any(each.startswith(f"{name}.") for each in found)}
    return {f"{part}.{name}": module for name, module in found.items() if name in inner}


def outer_blocks(unet: nn.Module) -> dict[str, nn.Module]:
    """Return a UNet's blocks that are in no other, by their names."""
    blocks = named_blocks("unet", unet)
    return {name: blocks[name] for name in _outer(list(blocks))}


def _chosen(patterns: list[str], names: list[str]) -> set[str]:
    chosen = set()
    for pattern in patterns:
        taken = {name for name in names if _takes(pattern, name)}
        if not taken:
            near = difflib.get_close_matches(pattern, names, 3)
            hint = (
                f"did you mean {', '.join(near)}?"
                if near
                else f"there are {', '.join(_outer(names))}"
            )
            raise ElfError(f"{KEY}: no block is named {pattern!r}; {hint}")
        chosen |= taken
    return chosen


def _takes(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def _outer(names: list[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def checkpoint_activations(network: Any) -> None:
    """Recompute all blocks of a network.

    The random generator's state is kept only where something is dropped.
    """
    drops = any(isinstance(each, nn.Dropout) and each.p > 0 for each in network.modules())
    options = {"use_reentrant": False, "preserve_rng_state": drops}
    if hasattr(network, "enable_gradient_checkpointing"):  # diffusers
        network.enable_gradient_checkpointing(partial(_checkpoint, **options))
        return
    name = "activation_checkpointing_enable"  # from transformers 5.23 on, which warns of the older
    getattr(network, name, network.gradient_checkpointing_enable)(options)


def _checkpoint(function: Any, *inputs: Any, **options: Any) -> Any:
    # torch (2.11) captures it, but what is recomputed then drops other elements
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if options["preserve_rng_state"] and capturing:
        raise RuntimeError("adapter dropout under gradient checkpointing")
    return checkpoint(function, *inputs, **options)
