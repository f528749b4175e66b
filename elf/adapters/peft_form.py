"""An adapter as peft's own configuration: to inject it, and to describe it in files."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from peft import LoraConfig

from elf.adapters.adapted import layer_classes
from elf.adapters.config import AdapterConfig
from elf.adapters.targets import LayerValues


def peft_config(
    config: AdapterConfig, layers: Mapping[str, LayerValues], anchored: bool = True
) -> LoraConfig:
    """Return peft's configuration of an adapter on layers, by their full names.

    Args:
        config: What is trained.
        layers: What each layer gets.
        anchored: Take the names of layers with values of their own as whole ones; peft else takes
            them for ends of longer ones, too.
    """
    rank = _most_common([values.rank for values in layers.values()], config.rank)
    alpha = _most_common([values.alpha for values in layers.values()], rank)
    # A and B that are taken from weights or data are set afterwards: peft would change the weights.
    init = "kaiming" if config.subtracts or config.needs_data else config.init
    start = "^" if anchored else ""
    result = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=_target_modules(list(layers)),
        rank_pattern={start + re.escape(n): v.rank for n, v in layers.items() if v.rank != rank},
        alpha_pattern={
            start + re.escape(n): v.alpha for n, v in layers.items() if v.alpha != alpha
        },
        lora_dropout=config.dropout,
        use_dora=config.kind == "dora",
        use_rslora=config.rslora,
        init_lora_weights=True if init == "kaiming" else init,
    )
    result._register_custom_module(layer_classes(config.kind, config.axis))
    return result


def _most_common(values: list[Any], default: Any) -> Any:
    return Counter(values).most_common(1)[0][0] if values else default


def _target_modules(names: list[str]) -> list[str] | str:
    """Return names as a list, or as a regular expression where one is the end of another."""
    endings = {name[match.end() :] for name in names for match in re.finditer(r"\.", name)}
    if endings & set(names):
        return "|".join(map(re.escape, names))
    return names


def plain(config: LoraConfig) -> dict[str, Any]:
    """Return peft's configuration as plain values, as peft writes it into files."""
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
