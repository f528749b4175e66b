"""Reads files in diffusers' form: tensors by peft's names, and peft's configurations in the header.

What a header says is checked before it is believed: a stranger's file may say anything.
"""

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from elf import adapters
from elf.adapters import AdapterConfig, Part
from elf.adapters.files import A_KEY, B_KEY, MAGNITUDE, adapted_names
from elf.errors import ElfError
from elf.quantized import Kind

METADATA_KEY = "lora_adapter_metadata"
"""In a file's header (diffusers.loaders.lora_base): without it its loader takes alpha = rank."""
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WAY = "export it again by `elf export`"
OPTIONS: dict[str, tuple[type, ...]] = {
    "prediction_type": (str, type(None)),
    "zero_terminal_snr": (bool, type(None)),
    "clip_skip": (int, type(None)),
    "base_configs": (type(None),),
    "caption_tokens": (int,),
}
"""What a file may say of its base, in a checkpoint's order; no folder, which is a machine's."""
QUANTIZED = [{"quantization": kind} for kind in (None, *get_args(Kind))]
"""What the folder of a language model's adapter may say."""
DEFAULTS = {"caption_tokens": 75}


def read_diffusers(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: Path, what: str = METADATA_KEY
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Return an adapter's configuration, and its tensors by ``{part}.{name in checkpoints}``.

    Args:
        tensors: Of the file.
        header: peft's configurations of all networks, their keys after the networks' names.
        path: The file, for messages.
        what: Where the header stands, for messages.

    Raises:
        ElfError: If there is no such header, it makes no sense, or a layer is not whole.
    """
    if not header:
        raise ElfError(f"adapter: {path} has no {what}; {WAY}")
    states = adapters.by_part({_usual(key): tensor for key, tensor in tensors.items()})
    if not states or sum(map(len, states.values())) < len(tensors):
        raise ElfError(f"adapter: {path} is empty, or has two tensors of one name; {WAY}")
    settings = {part: _settings(header, part, path, what) for part in states}
    for key in ("use_dora", "use_rslora"):
        if len({each[key] for each in settings.values()}) > 1:
            raise ElfError(f"adapter: {path} has {key} in some of its networks alone; {WAY}")
    for part, state in states.items():
        _check_layers(state, settings[part]["use_dora"], part, path)
    return adapters.config_from(settings, states), {
        f"{part}.{key}": tensor for part, own in states.items() for key, tensor in own.items()
    }


def _usual(key: str) -> str:
    """Return a tensor's name as checkpoints have it: diffusers' writer has no end in DoRA's."""
    return key + ".weight" if key.endswith(MAGNITUDE.removesuffix(".weight")) else key


def read_stated_base(known: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], str | None]:
    """Return the options of a base that a file's header states, and the sha256 of its UNet.

    Raises:
        ElfError: If they are none.
    """
    options, sha256 = known.get("base_options", {}), known.get("base_sha256")
    if options in QUANTIZED and isinstance(sha256, str | None):  # of a language model
        return dict(options), sha256
    sane = isinstance(options, dict) and isinstance(sha256, str | None)
    for key, value in options.items() if sane else ():
        sane = sane and key in OPTIONS and type(value) in OPTIONS[key]
    if not sane:
        raise ElfError(f"adapter: what {path} says of its base is damaged; {WAY}")
    if not options:
        return {}, sha256
    return {key: options.get(key, DEFAULTS.get(key)) for key in OPTIONS}, sha256


def _settings(header: Mapping[str, Any], part: Part, path: Path, what: str) -> dict[str, Any]:
    """Return what the header says of a network, as far as it decides anything."""
    found = {}
    for key in ("alpha_pattern", "lora_alpha", "use_dora", "use_rslora"):
        if f"{part}.{key}" not in header:
            raise ElfError(f"adapter: the {what} of {path} lacks '{part}.{key}'; {WAY}")
        found[key] = header[f"{part}.{key}"]
    alphas = found["alpha_pattern"]
    sane = (
        isinstance(alphas, dict)
        and all(map(_is_pattern, alphas))
        and all(map(_is_alpha, [found["lora_alpha"], *alphas.values()]))
        and all(isinstance(found[key], bool) for key in ("use_dora", "use_rslora"))
    )
    if not sane:
        raise ElfError(f"adapter: the {what} of {path} makes no sense for {part}; {WAY}")
    return found


def _is_alpha(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < 1e9 and math.isfinite(value)


def _is_pattern(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(rf"(.*\.)?({text})$")  # as it will be used
    except (re.error, Warning, OverflowError, RecursionError):
        return False
    return True


def _check_layers(state: Mapping[str, Tensor], dora: bool, part: Part, path: Path) -> None:
    ends = (A_KEY, B_KEY, MAGNITUDE) if dora else (A_KEY, B_KEY)
    names = adapted_names(state)
    wanted = {name + end for name in names for end in ends}
    if odd := sorted(wanted ^ state.keys()):
        does = "lacks" if odd[0] in wanted else "holds"
        why = "it is not whole" if odd[0] in wanted else "which is of no layer's LoRA or DoRA"
        raise ElfError(f"adapter: {path} {does} {part}.{odd[0]}; {why}")
    for name in names:
        a, b = state[name + A_KEY], state[name + B_KEY]
        fits = a.dim() in (2, 4) and a.numel() > 0 and b.numel() > 0
        ones = [1] * (a.dim() - 2)
        fits = fits and list(b.shape) == [*b.shape[:1], len(a), *ones]
        if dora and fits:
            shape = [1, len(b), *ones] if ones else [len(b)]
            fits = list(state[name + MAGNITUDE].shape) == shape
        if not (fits and all(state[name + end].dtype in FLOATING for end in ends)):
            raise ElfError(
                f"adapter: the tensors of {part}.{name} in {path} do not fit each other; it is "
                "damaged"
            )
