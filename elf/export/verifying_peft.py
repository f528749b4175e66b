"""Reads tensors and configuration as peft does, which diffusers has do it, too, and compares them.

peft takes a layer's alpha and rank from the first pattern that its name ends in, and else the
configuration's own; its scale is alpha / r, or alpha / √r.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from elf.adapters.presets import canonical
from elf.dtypes import DType
from elf.errors import ElfError
from elf.export.trained import Layer
from elf.export.verifying import ALLOWED

END = re.compile(r"\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)(?:\.weight)?$")
BOTH = {"lora_A.weight", "lora_B.weight"}
Worst = tuple[float, str]


def verify_peft(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    layers: Sequence[Layer],
    dtype: DType,
) -> Worst:
    """Compare one network's adapter with what was trained.

    Args:
        path: Its file, for messages.
        tensors: By their names in the network.
        config: peft's.
        layers: What was trained of this network.
        dtype: Of the file.

    Returns:
        The largest relative error of an update, and the layer that has it.

    Raises:
        ElfError: If a layer is missing, one is none, or one does something else.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        end = END.search(key)
        name, rest = (key[: end.start()], end[1]) if end else (key, "")
        found.setdefault(name, {})[rest] = tensor.float()
    expected = {layer.name: layer for layer in layers}
    named = {canonical(name): name for name in found}
    odd = sorted(expected.keys() ^ named.keys())
    odd += [name for name, key in named.items() if not BOTH <= found[key].keys()]
    if odd:
        raise ElfError(
            f"verify: {path} {'lacks' if odd[0] in expected else 'has'} {odd[0]}, so it is not "
            "what was trained, and is not kept; export another checkpoint"
        )
    worst: Worst = (0.0, "")
    for name, layer in expected.items():
        own = found[named[name]]
        rank = _stated(config, "rank_pattern", "r", named[name])
        alpha = _stated(config, "alpha_pattern", "lora_alpha", named[name])
        a, b = own["lora_A.weight"], own["lora_B.weight"]
        update = (alpha / (rank**0.5 if config["use_rslora"] else rank)) * (
            b.flatten(1) @ a.flatten(1)
        )
        wanted = layer.update.flatten(1)
        off = float((update - wanted).norm() / wanted.norm().clamp(min=1e-30))
        magnitude = own.get("lora_magnitude_vector")
        same = config["use_dora"] == (layer.magnitude is not None) == (magnitude is not None)
        if magnitude is not None and layer.magnitude is not None:
            same = same and bool((magnitude.flatten() == layer.magnitude).all())
        if rank != len(a) or not same or not off <= ALLOWED[dtype]:
            raise ElfError(
                f"verify: {layer.label} of {path} is off by {off:.1%} of its update, or of another "
                "rank or magnitude; the file is not what was trained"
            )
        worst = max(worst, (off, layer.label))
    return worst


def told(worst: Sequence[Worst], count: int) -> str:
    """Return in a line what was found of several networks' layers."""
    off, label = max(worst)
    return f"verified: {count} layers, off by {off:.1e} at most ({label})"


def _stated(config: Mapping[str, Any], pattern: str, key: str, name: str) -> float:
    for each, value in config[pattern].items():
        if re.match(rf"(.*\.)?({each})$", name):
            return float(value)
    return float(config[key])
