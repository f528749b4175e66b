"""What an adapted layer is made of: its frozen weight, A and B, the scale, and so its ΔW."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from elf.adapters import dora
from elf.quantized import QuantizedLinear

NAME = "default"  # peft's own name for a single adapter
INITIAL_A, INITIAL_B = "lora_initial_A", "lora_initial_B"


def layers(network: nn.Module) -> list[Any]:
    """Return the layers that carry an adapter."""
    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def base_weight(layer: Any) -> Tensor:
    """Return the frozen weight of an adapted layer, (out, in, *kernel)."""
    return frozen_weight(layer.get_base_layer())


def frozen_weight(module: nn.Module) -> Tensor:
    """Return the weight of a layer without an adapter; of a quantised one it is made anew."""
    if isinstance(module, QuantizedLinear):
        return module.dequantized()
    weight: Any = module.weight
    return weight  # type: ignore[no-any-return]


def computed_in(module: nn.Module) -> torch.dtype:
    """Return the type that a frozen layer computes in, of a quantised one that of its passes."""
    kind: Any = module
    dtype: torch.dtype = kind.dtype if isinstance(kind, QuantizedLinear) else kind.weight.dtype
    return dtype


def axis_of(layer: Any) -> dora.Axis:
    """Return the axis of a layer's norms; peft's own classes have the output axis."""
    axis: dora.Axis = getattr(layer, "axis", "output")
    return axis


def factors(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A (r, in, *kernel) and B (out, r) with the update s B A.

    Where the update is s (BA − B₀A₀) they are [A; A − A₀] and [B − B₀, B₀]: the product is the same
    as of [A; A₀] and [B, −B₀], and what is large in both halves does not have to cancel out.
    """
    a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight.flatten(1)
    if not hasattr(layer, INITIAL_A):
        return a, b
    return (
        torch.cat([a, a - getattr(layer, INITIAL_A)]),
        torch.cat([b - getattr(layer, INITIAL_B), getattr(layer, INITIAL_B)], dim=1),
    )


@torch.no_grad()
def delta_weight(layer: Any) -> Tensor:
    """Return ΔW = W' − W of a layer in float32, in the shape of its weight (DoRA included)."""
    weight = base_weight(layer).float()
    merged = dora.updated(weight, *factors(layer), layer.scaling[NAME])
    if layer.use_dora[NAME]:
        axis = axis_of(layer)
        norm = dora.norm_squared(merged, axis).sqrt()
        gain = layer.lora_magnitude_vector[NAME].weight.float().flatten() / norm
        shape = [1] * weight.dim()
        shape[0 if axis == "output" else 1] = -1
        merged = merged * torch.where(norm > 0, gain, 0).view(shape)
    return merged - weight
