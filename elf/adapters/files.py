"""An adapter as others' files have it: its tensors and its configuration, and back."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from elf.adapters.config import AdapterConfig, AdapterGroup
from elf.adapters.factored import INITIAL_A, INITIAL_B
from elf.adapters.peft_form import peft_config, plain
from elf.adapters.presets import TEXT_ENCODERS, Part
from elf.adapters.targets import layer_values
from elf.errors import ElfError

A_KEY, B_KEY = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE = ".lora_magnitude_vector.weight"
State = Mapping[str, Tensor]


def adapted_names(state: State) -> list[str]:
    """Return the names of the layers whose tensors a network's adapter state holds."""
    return [key.removesuffix(A_KEY) for key in state if key.endswith(A_KEY)]


def without_initial(state: State) -> dict[str, Tensor]:
    """Return a state whose updates are plain ones: s (BA − B₀A₀) as s [B − B₀, B₀] [A; A − A₀].

    So a file of an adapter that began at some A₀ and B₀ gives the trained network on the base as it
    is. It has twice the rank, and survives 16 bit: no large halves have to cancel out.
    """
    result = {key: value for key, value in state.items() if ".lora_initial_" not in key}
    for name in adapted_names(state):
        if f"{name}.{INITIAL_A}" in state:
            a, b = state[name + A_KEY], state[name + B_KEY]
            first, second = state[f"{name}.{INITIAL_A}"], state[f"{name}.{INITIAL_B}"]
            result[name + A_KEY] = torch.cat([a, a - first])
            result[name + B_KEY] = torch.cat([b - second, second], dim=1)
    return result


def changes_nothing(state: State) -> bool:
    """Whether every update BA of a state is zero, as far as rounding lets one tell.

    So it is in a new adapter, also where neither A nor B is zero (orthogonal, pissa …).
    """
    plain_state = without_initial(state)
    for name in adapted_names(plain_state):
        a = plain_state[name + A_KEY].float().flatten(1)
        b = plain_state[name + B_KEY].float().flatten(1)
        if (b @ a).norm() > 1e-6 * a.norm() * b.norm():
            return False
    return True


def metadata(config: AdapterConfig, state: State, part: Part = "unet") -> dict[str, Any]:
    """Return peft's configuration of one network's adapter as plain values, for files.

    Dropout is left out: who loads a file through diffusers gets the new layers in training mode,
    even under a network in evaluation mode, and would sample with it (diffusers 0.42).

    Args:
        config: What was trained.
        state: The adapter's tensors, as they were trained.
        part: Which network they are of.

    Raises:
        ElfError: If the input axis was trained, which no file of others can express.
    """
    if config.kind == "dora" and config.axis == "input":
        raise ElfError(
            "model.adapter.axis: a DoRA with axis input scales the columns of W, for which peft's "
            "and diffusers' files have no form; train axis output to share a file, or merge it "
            "into the base (elf.adapters.merge)"
        )
    values = layer_values(config, adapted_names(state), part)
    if config.subtracts:  # s must stay what it was: alpha / r, or alpha / √r
        factor = 2**0.5 if config.rslora else 2
        values = {
            name: replace(value, rank=2 * value.rank, alpha=factor * value.alpha)
            for name, value in values.items()
        }
    written = replace(config, dropout=0.0, init="kaiming")
    # A text encoder may have one level more where the file is loaded than where it was trained.
    return plain(peft_config(written, values, anchored=part not in TEXT_ENCODERS))


def config_from(
    headers: Mapping[Part, Mapping[str, Any]], states: Mapping[Part, State]
) -> AdapterConfig:
    """Return the configuration that injects what a file holds.

    Args:
        headers: peft's configuration of each network's adapter, as plain values.
        states: The tensors of each.

    Raises:
        KeyError: If a header lacks a value.
    """
    first = next(iter(headers.values()))
    layers: dict[str, tuple[int, float]] = {}  # by name in the pipeline
    for part, state in states.items():
        header = headers[part]
        for name in adapted_names(state):
            key = _pattern(header["alpha_pattern"], name)
            alpha = header["lora_alpha"] if key is None else header["alpha_pattern"][key]
            layers[f"{part}.{name}"] = (len(state[name + A_KEY]), alpha)
    (rank, alpha), _ = Counter(layers.values()).most_common(1)[0]
    others: dict[tuple[int, float], list[str]] = {}
    for name, values in layers.items():
        if values != (rank, alpha):
            others.setdefault(values, []).append(re.escape(name))
    text = [
        name
        for part, state in states.items()
        if part in TEXT_ENCODERS
        for name in adapted_names(state)
    ]
    return AdapterConfig(
        kind="dora" if first["use_dora"] else "lora",
        rank=rank,
        alpha=alpha,
        targets=[
            name
            for part, state in states.items()
            if part not in TEXT_ENCODERS
            for name in adapted_names(state)
        ],
        rslora=first["use_rslora"],
        text_targets=list(dict.fromkeys(text)) or None,
        groups=[AdapterGroup("re:" + "|".join(o), r, a) for (r, a), o in others.items()],
    )


def _pattern(patterns: Mapping[str, Any], name: str) -> str | None:
    """Return the pattern that takes a name, as peft decides it."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", name)), None)
