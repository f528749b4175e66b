"""Reads files in kohya's form, as scripts and web UIs share them: LoRA, and DoRA of both axes.

A name in them is found among those of the base's layers. What is not understood is refused: a file
that is read in part works, and is another adapter.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from elf import adapters
from elf.adapters import AdapterConfig, Part
from elf.adapters.dora import Axis
from elf.adapters.files import A_KEY, B_KEY, MAGNITUDE
from elf.adapters.presets import canonical
from elf.bases import Base
from elf.errors import ElfError
from elf.export.names import UNET_PREFIX, kohya_name

KNOWN = ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")


def is_kohya(keys: Iterable[str]) -> bool:
    """Whether names of tensors are in kohya's form."""
    return any(key.startswith(("lora_unet_", "lora_te")) for key in keys)


def read_kohya(
    tensors: Mapping[str, Tensor], base: Base, path: Path
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Return an adapter's configuration, and its tensors by ``{part}.{name in checkpoints}``.

    Args:
        tensors: Of the file.
        base: The base whose layers it is of; its weights are not read.
        path: The file, for messages.

    Raises:
        ElfError: If a layer is none of the base's, has another shape, or holds what is no LoRA or
            DoRA; with its name.
    """
    layers = layer_names(base)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        if rest not in KNOWN:
            raise ElfError(
                f"adapter: {path} holds {key}, which is no LoRA's or DoRA's; Elf reads "
                f"{', '.join(KNOWN)}"
            )
        found.setdefault(name, {})[rest] = tensor
    if odd := [name for name in found if name not in layers]:
        raise ElfError(
            f"adapter: {path} has {odd[0]} ({len(odd)} such of {len(found)}), which is no layer of "
            f"{base.name}; is it of another base?"
        )
    states: dict[Part, dict[str, Tensor]] = {}
    alphas: dict[Part, dict[str, float]] = {}
    axes: set[Axis | None] = set()
    for name, given in found.items():
        part, layer, weight = layers[name]
        state, alpha, axis = _layer(given, weight, name, path)
        states.setdefault(part, {}).update({layer + key: each for key, each in state.items()})
        alphas.setdefault(part, {})[layer] = alpha
        axes.add(axis)
    if len(axes) > 1:
        raise ElfError(f"adapter: {path} is a DoRA in some layers alone, or of two axes")
    (axis,) = axes or {None}
    config = adapters.config_from(
        {part: _described(values, axis is not None) for part, values in alphas.items()}, states
    )
    config.axis = axis or "output"
    return config, {f"{part}.{key}": t for part, own in states.items() for key, t in own.items()}


def layer_names(base: Base) -> dict[str, tuple[Part, str, torch.Size]]:
    """Return a base's layers that can be adapted, by their names in kohya's form.

    Those of SDXL's UNet have two: the original code's, and diffusers', which some scripts write.
    """
    names: dict[str, tuple[Part, str, torch.Size]] = {}
    config = base.config("unet")
    for part in cast(tuple[Part, ...], ("unet", *base.text_encoder_names)):
        for name, module in base.empty(part).named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                layer = (part, canonical(name), module.weight.shape)
                if part == "unet":
                    names[UNET_PREFIX + name.replace(".", "_")] = layer
                names[kohya_name(part, name, base.family, config)] = layer
    return names


def _layer(
    given: Mapping[str, Tensor], weight: torch.Size, name: str, path: Path
) -> tuple[dict[str, Tensor], float, Axis | None]:
    """Return a layer's tensors, its alpha, and the axis of its norms if it is a DoRA."""
    if missing := [key for key in KNOWN[:2] if key not in given]:
        raise ElfError(f"adapter: {path} has no {name}.{missing[0]}; it is not whole")
    down, up = given["lora_down.weight"].float(), given["lora_up.weight"].float()
    rank, kernel = (len(down) if down.dim() else 0), list(weight[2:])
    inside, out = list(weight[1:]), weight[0]
    if not rank or down.numel() != rank * weight[1:].numel() or up.numel() != out * rank:
        raise ElfError(
            f"adapter: {name} of {path} is {list(down.shape)} and {list(up.shape)}, which do not "
            f"fit the base's {list(weight)}; is it of another base?"
        )
    state = {
        A_KEY: down.view(rank, *inside),
        B_KEY: up.view(out, rank, *[1] * len(kernel)),
    }
    stated = given.get("alpha", torch.tensor(float(rank)))  # without one all readers take the rank
    if stated.numel() != 1:
        raise ElfError(f"adapter: {name}.alpha of {path} is no single number; it is damaged")
    alpha = float(stated)
    axis: Axis | None = None
    if "dora_scale" in given:
        scale = given["dora_scale"].float()
        axis = _axis(list(scale.shape), weight)
        if axis is None:
            raise ElfError(
                f"adapter: {name}.dora_scale of {path} is {list(scale.shape)}, which has no axis; "
                f"Elf reads [1, {weight[1]}] and [{out}, 1]"
            )
        flat = scale.flatten()
        state[MAGNITUDE] = flat.view(1, -1, *[1] * len(kernel)) if kernel else flat
    for key, tensor in [*state.items(), ("alpha", torch.tensor(alpha))]:
        if not torch.isfinite(tensor).all():
            raise ElfError(f"adapter: {name}{key} of {path} is not finite; it is damaged")
    return state, alpha, axis


def _axis(shape: list[int], weight: torch.Size) -> Axis | None:
    ones = [1] * (len(weight) - 2)
    if shape == [1, weight[1], *ones]:
        return "input"
    return "output" if shape == [weight[0], 1, *ones] else None


def _described(alphas: Mapping[str, float], dora: bool) -> dict[str, Any]:
    """Return what peft's configuration would say of a network's layers."""
    ((usual, _),) = Counter(alphas.values()).most_common(1)
    others = {re.escape(name): alpha for name, alpha in alphas.items() if alpha != usual}
    return {"lora_alpha": usual, "alpha_pattern": others, "use_dora": dora, "use_rslora": False}
