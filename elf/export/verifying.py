"""Reads a written file again by the rules of who loads it, and compares what comes out.

A file's error is taken over ‖W' − W‖, which does not overlook a small update; that of a merged
base, which is rounded as a whole, over ‖W'‖. Rounding of the file's type is allowed for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from elf.dtypes import DType
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.kohya_form import Namer, Weights
from elf.export.trained import Layer

ALLOWED: dict[DType, float] = {"float32": 1e-4, "float16": 3e-3, "bfloat16": 2.5e-2}
"""Of ‖W' − W‖: each of A and B is rounded to 24, 11 or 8 bits."""

ALLOWED_MERGED: dict[DType, float] = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
"""Of ‖W'‖, which is rounded once."""


def verify_kohya(
    path: Path,
    layers: Sequence[Layer],
    namer: Namer,
    dtype: DType,
    weights: Weights | None = None,
    errors: Mapping[str, float] = {},
) -> str:
    """Compare a file in kohya's form with what was trained.

    Args:
        path: The file.
        layers: What was trained.
        namer: Says what a layer is called there.
        dtype: Of the file.
        weights: Where frozen weights come from; LoRA needs none.
        errors: Of layers that were converted.

    Returns:
        What was found, in a line.

    Raises:
        ElfError: If a key is missing, one is of no layer, or a layer does something else.
    """
    tensors = load_file(path)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        found.setdefault(name, {})[rest] = tensor.float()
    expected = {namer(layer): layer for layer in layers}
    if odd := sorted(expected.keys() ^ found.keys()):
        raise ElfError(
            f"verify: {path} {'lacks' if odd[0] in expected else 'has'} {odd[0]}, so it is not "
            "what was trained, and is not kept; export another checkpoint"
        )
    worst, worst_name = 0.0, ""
    for layer in layers:
        if layer.magnitude is None:
            wanted = layer.update
        else:
            assert weights is not None  # else it was not written
            weight = weights(layer).float()
            wanted = layer.changed(weight) - weight
        change = kohya_change(found[namer(layer)], layer, weights)
        off = float((change - wanted).norm() / wanted.norm().clamp(min=1e-30))
        beyond = max(off - errors.get(layer.label, 0.0), 0.0)
        if beyond >= worst:
            worst, worst_name = beyond, layer.label
        if not beyond <= ALLOWED[dtype]:  # nor is it if it is no number
            raise ElfError(
                f"verify: {layer.label} of {path} is off by {off:.1%} of its update; the file is "
                "not what was trained"
            )
    return f"verified: {len(layers)} layers, off by {worst:.1e} at most ({worst_name})"


def kohya_change(read: Mapping[str, Tensor], layer: Layer, weights: Weights | None) -> Tensor:
    """Return W' − W as ComfyUI makes it of a layer's tensors."""
    down, up = read["lora_down.weight"], read["lora_up.weight"]
    update = (up.flatten(1) @ down.flatten(1)) * (float(read["alpha"]) / len(down))
    update = update.view(len(up), *down.shape[1:])
    if "dora_scale" not in read:
        return update
    if weights is None:
        raise ElfError("base: a DoRA is verified beside its base; name it by --base")
    weight = weights(layer).float()
    merged = weight + update
    norms = merged.transpose(0, 1).reshape(merged.shape[1], -1).norm(dim=1)
    norms = norms.view(1, -1, *[1] * (merged.dim() - 2))
    return merged * torch.where(norms > 0, read["dora_scale"] / norms, 0) - weight


def verify_merged(layers: Sequence[Layer], basis: Basis, merged: Basis, dtype: DType) -> str:
    """Compare the weights of a base that an adapter was merged into with those of the training.

    Args:
        layers: The adapter.
        basis: Its base.
        merged: What was written, read again.
        dtype: That weights were rounded to.

    Returns:
        What was found, in a line.

    Raises:
        ElfError: With the first layer that is off by more than rounding.
    """
    worst_of_weight = worst_of_update = 0.0
    for layer in layers:
        weight, found = basis.weight(layer), merged.weight(layer)
        wanted = layer.changed(weight)
        off = (found - wanted).norm()
        of_weight = float(off / wanted.norm())
        if not of_weight <= ALLOWED_MERGED[dtype]:  # nor is it if it is no number
            raise ElfError(
                f"verify: {layer.label} of {merged.base.name} is off by {of_weight:.1%} of its "
                "weight; what was written is not what was trained, and is not kept"
            )
        worst_of_weight = max(worst_of_weight, of_weight)
        of_update = float(off / (wanted - weight).norm().clamp(min=1e-30))
        worst_of_update = max(worst_of_update, of_update)
    return (
        f"verified: {len(layers)} layers, off by {worst_of_weight:.1e} of W' at most, and by "
        f"{worst_of_update:.1e} of W' − W"
    )
