"""How far an adapter has moved each block of a network: ‖ΔW‖ / ‖W‖, in Frobenius norms.

Of a LoRA no ΔW is made for it: ‖BA‖² = ⟨BᵀB, AAᵀ⟩, two matrices of the rank's size.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
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

TOGETHER = 16
"""Layers in a batch of products; their factors are copied, some 20 MiB of SDXL's at rank 128."""


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
    for name, square in change_squares(named_layers(network)).items():
        for block in (block_of(name), ALL):
            change[block].append(square)
            weight[block].append(squares[name])
    return {
        block: (torch.stack(change[block]).sum() / torch.stack(weight[block]).sum()).sqrt()
        for block in sorted(change)
    }


@torch.no_grad()
def change_squares(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return ‖ΔW‖² of each layer as a float32 scalar.

    Products of matrices of the same sizes come in batches: a UNet's hundreds of layers have about a
    dozen sizes. Other adapters' (DoRA, PiSSA …) ΔW is made for it, one layer at a time.
    """
    alike: dict[Any, list[str]] = defaultdict(list)
    squares: dict[str, Tensor] = {}
    for name, layer in layers.items():
        if _is_product(layer):
            down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
            alike[down.shape, up.shape, layer.scaling[NAME]].append(name)
        else:
            squares[name] = adapters.delta_weight(layer).square().sum()
    groups = [
        (scaling, names[start : start + TOGETHER])
        for (*_, scaling), names in alike.items()
        for start in range(0, len(names), TOGETHER)
    ]
    for scaling, names in groups:
        down = _stacked(layers[name].lora_A for name in names)  # (N, rank, in · k · k)
        up = _stacked(layers[name].lora_B for name in names)  # (N, out, rank)
        products = ((up.mT @ up) * (down @ down.mT)).sum((1, 2)) * scaling**2
        # below 0 is rounding of what is nearly nothing
        squares |= dict(zip(names, products.clamp(min=0).unbind(), strict=True))
    return squares


def _stacked(factors: Iterable[Any]) -> Tensor:
    return torch.stack([each[NAME].weight.float().flatten(1) for each in factors])


def _is_product(layer: Any) -> bool:
    """Whether ΔW is a layer's B · A and no more."""
    base = layer.get_base_layer()
    plain = isinstance(base, nn.Linear) or (isinstance(base, nn.Conv2d) and base.groups == 1)
    dora = getattr(layer, "use_dora", {}).get(NAME, False)
    return plain and not dora and not hasattr(layer, INITIAL_A)


def _weight_square(layer: Any) -> Tensor:
    return base_weight(layer).detach().float().square().sum()


def relative_change(networks: Iterable[nn.Module]) -> float:
    """Return ‖ΔW‖ / ‖W‖ over all layers of networks that carry an adapter, at its strength."""
    change = weight = 0.0
    for network in networks:
        change += float(sum(change_squares(named_layers(network)).values()))
        weight += float(sum(weight_squares(network).values()))
    return math.sqrt(change / weight)
