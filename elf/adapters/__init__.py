"""LoRA and DoRA adapters on a network: which layers, how many parameters, to and from files."""

from elf.adapters.config import AdapterConfig, AdapterGroup, describe, validate
from elf.adapters.factored import base_weight, delta_weight, layers
from elf.adapters.files import changes_nothing, config_from, metadata, without_initial
from elf.adapters.injection import (
    Injected,
    inject,
    inject_all,
    learning_rate_groups,
    refuse_unused_groups,
)
from elf.adapters.norms import refresh_norms, reuse_norms
from elf.adapters.peft_form import peft_config
from elf.adapters.presets import Part
from elf.adapters.state import (
    adapter_state,
    by_part,
    file_key,
    is_adapter_key,
    load_adapter_state,
)
from elf.adapters.switching import at_strength, disabled, merge, remove, set_enabled, set_strength

__all__ = [
    "AdapterConfig",
    "AdapterGroup",
    "Injected",
    "Part",
    "adapter_state",
    "at_strength",
    "base_weight",
    "by_part",
    "changes_nothing",
    "config_from",
    "delta_weight",
    "describe",
    "disabled",
    "file_key",
    "inject",
    "inject_all",
    "is_adapter_key",
    "layers",
    "learning_rate_groups",
    "load_adapter_state",
    "merge",
    "metadata",
    "peft_config",
    "refresh_norms",
    "refuse_unused_groups",
    "remove",
    "reuse_norms",
    "set_enabled",
    "set_strength",
    "validate",
    "without_initial",
]
