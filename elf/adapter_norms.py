"""How far an adapter has moved each block of a network: ‖ΔW‖ / ‖W‖, in Frobenius norms.

Of a LoRA no ΔW is made for it: ‖BA‖² = ⟨BᵀB, AAᵀ⟩, two matrices of the rank's size.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elf import adapters
from elf.adapters.factored import INITIAL_A, NAME, base_weight

_BLOCK = re.compile(
    r"(?:^|\.)(text_encoder(?:_\d+)?|(?:down|up)_blocks\.\d+|mid_block|\w*transformer_blocks\.\d+)"
    r"(?:\.|$)"
)

ALL = "all"


def block_of(name: str) -> str:
    """Return the block that a layer belongs to, by its name: ``down_blocks.0``, ``mid_block`` ….

    A text encoder is one block; what is in none is called by its first name.
    """
    found = _BLOCK.search(name)
    return found[1] if found else name.split(".")[0]


def named_layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers that carry an adapter by their names."""
    names = {module: name for name, module in network.named_modules()}
    return {names[layer]: layer for layer in adapters.layers(network)}


@torch.no_grad()
def weight_squares(network: nn.Module) -> dict[str, Tensor]:
    """Return ‖W‖² of each layer that carries an adapter, as float32 scalars on its device.

    The base does not change: once is enough.
    """
    return {name: _weight_square(layer) for name, layer in named_layers(network).items()}


@torch.no_grad()
def relative_changes(network: nn.Module, squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ‖ΔW‖ / ‖W‖ of each block, and of ``all``, as scalars on the network's device.

    Args:
        network: With an adapter in it.
        squares: Its ``weight_squares``.
    """
    change: dict[str, list[Tensor]] = defaultdict(list)
    weight: dict[str, list[Tensor]] = defaultdict(list)
    for name, layer in named_layers(network).items():
        square = change_square(layer)
        for block in (block_of(name), ALL):
            change[block].append(square)
            weight[block].append(squares[name])
    return {
        block: (torch.stack(change[block]).sum() / torch.stack(weight[block]).sum()).sqrt()
        for block in sorted(change)
    }


@torch.no_grad()
def change_square(layer: Any) -> Tensor:
    """Return ‖ΔW‖² of a layer as a float32 scalar.

    Other adapters' (DoRA, PiSSA …) ΔW is made for it, one layer at a time.
    """
    base = layer.get_base_layer()
    plain = isinstance(base, nn.Linear) or (isinstance(base, nn.Conv2d) and base.groups == 1)
    dora = getattr(layer, "use_dora", {}).get(NAME, False)
    if dora or not plain or hasattr(layer, INITIAL_A):
        return adapters.delta_weight(layer).square().sum()
    down = layer.lora_A[NAME].weight.float().flatten(1)  # (rank, in · k · k)
    up = layer.lora_B[NAME].weight.float().flatten(1)  # (out, rank)
    square: Tensor = ((up.T @ up) * (down @ down.T)).sum() * layer.scaling[NAME] ** 2
    return square.clamp(min=0)  # rounding of what is nearly nothing


def _weight_square(layer: Any) -> Tensor:
    return base_weight(layer).detach().float().square().sum()
