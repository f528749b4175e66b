"""Puts an adapter into a network, and says what was put where."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft import inject_adapter_in_model
from torch import nn

from elf.adapters.adapted import set_magnitudes
from elf.adapters.config import AdapterConfig, validate
from elf.adapters.factored import INITIAL_A, INITIAL_B, NAME, frozen_weight, layers
from elf.adapters.initial import Factors, initial_factors, refuse_layer
from elf.adapters.peft_form import peft_config
from elf.adapters.presets import TEXT_ENCODERS, Part
from elf.adapters.targets import LayerValues, layer_values, target_names, unused_groups
from elf.errors import ElfError
from elf.quantized import QuantizedLinear


@dataclass(frozen=True)
class Injected:
    """What is trained of one network.

    Attributes:
        part: The network, by its name in the pipeline.
        values: Rank, alpha and factor on the learning rate of each adapted layer, by name.
        parameters: Number of trained parameters.
        blocks: Adapted layers and trained parameters of each block.
    """

    part: Part
    values: Mapping[str, LayerValues]
    parameters: int
    blocks: Mapping[str, tuple[int, int]]

    @property
    def modules(self) -> int:
        """Number of adapted layers."""
        return len(self.values)

    def summary_lines(self) -> list[str]:
        """Return what is trained as text, the whole first, then each block."""
        if not self.values:
            return [f"{self.part}: frozen"]
        lines = [f"{self.part}: {self.modules} layers, {self.parameters:,} parameters trained"]
        return lines + [
            f"  {block}: {modules} layers, {parameters:,} parameters"
            for block, (modules, parameters) in self.blocks.items()
        ]


def inject(network: nn.Module, config: AdapterConfig, part: Part = "unet") -> Injected:
    """Freeze a network and put an adapter into it in place.

    The adapter's parameters are float32, the network's keep their type. The new adapter changes
    nothing: W' is W to the last bit, or with the initialisation orthogonal, whose BA is zero only
    on paper, within rounding.

    Args:
        network: A UNet, or a text encoder.
        config: What is trained; its ``targets`` are for a UNet, its ``text_targets`` for others.
        part: The network's name in its pipeline.

    Raises:
        ElfError: If a value makes no sense, a pattern matches nothing, or a group decides nothing.
    """
    validate(config)
    names = target_names(network, config, part)
    if part not in TEXT_ENCODERS and not config.text_targets:  # else `inject_all` knows
        refuse_unused_groups(config, {part: names})
    values = layer_values(config, names, part)
    network.requires_grad_(False)
    if not names:
        return Injected(part, {}, 0, {})
    initial = _initial(network, config, values)  # before anything is changed
    settings = peft_config(config, values)
    settings.target_modules = "|".join(map(re.escape, names))  # not as ends of longer names, too
    inject_adapter_in_model(settings, network, adapter_name=NAME)
    for each in layers(network):
        each.train(each.get_base_layer().training)  # else a network that is not training drops out
        for parameter in _own_parameters(each).values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    for name, (a, b) in initial.items():
        layer: Any = network.get_submodule(name)
        layer.lora_A[NAME].weight.data.copy_(a)
        layer.lora_B[NAME].weight.data.copy_(b)
    if config.subtracts:  # from what they are now, or become when data were seen
        for each in layers(network):
            each.register_buffer(INITIAL_A, each.lora_A[NAME].weight.detach().clone())
            each.register_buffer(INITIAL_B, each.lora_B[NAME].weight.detach().clone())
    set_magnitudes(network)
    return _record(network, part, values)


def _initial(
    network: nn.Module, config: AdapterConfig, values: Mapping[str, LayerValues]
) -> dict[str, Factors]:
    initial: dict[str, Factors] = {}
    if config.init in ("kaiming", "gaussian"):
        return initial
    for name, value in values.items():
        module = network.get_submodule(name)
        if config.init == "orthogonal" and isinstance(module, QuantizedLinear):
            # peft would give A and B the type of the codes
            raise ElfError(
                "model.adapter.init: orthogonal is not for a quantised base; take kaiming or "
                "gaussian"
            )
        weight = frozen_weight(module).detach()
        scale = config.scaling(value.rank, value.alpha)
        refuse_layer(name, weight.shape, value.rank, config.init)
        if config.subtracts and not config.needs_data:
            initial[name] = initial_factors(weight, value.rank, scale, config.init)
    return initial


def inject_all(networks: Mapping[Part, nn.Module], config: AdapterConfig) -> dict[Part, Injected]:
    """Put adapters into the networks of a pipeline; those without targets are frozen.

    Raises:
        ElfError: As `inject` does; a group must decide something in one of the networks.
    """
    result = {part: inject(network, config, part) for part, network in networks.items()}
    refuse_unused_groups(config, {part: record.values for part, record in result.items()})
    return result


def refuse_unused_groups(config: AdapterConfig, names: Mapping[Part, Any]) -> None:
    """Refuse groups that decide nothing.

    Raises:
        ElfError: With the first such group's pattern.
    """
    for pattern in unused_groups(config, names):
        raise ElfError(
            f"model.adapter.groups: {pattern!r} takes no trained layer that a group before it "
            "does not take; widen the targets, move the group up, or leave it out"
        )


def _own_parameters(layer: Any) -> dict[str, nn.Parameter]:
    return {name: p for name, p in layer.named_parameters() if name.startswith("lora_")}


def _record(network: nn.Module, part: Part, values: Mapping[str, LayerValues]) -> Injected:
    blocks: dict[str, tuple[int, int]] = {}
    for name in values:
        found = re.match(r"(?:text_model\.)?([a-z_]+(?:\.\d+)?)", name)
        block = found[1] if found else name
        size = sum(p.numel() for p in _own_parameters(network.get_submodule(name)).values())
        modules, parameters = blocks.get(block, (0, 0))
        blocks[block] = (modules + 1, parameters + size)
    return Injected(part, values, sum(size for _, size in blocks.values()), blocks)


def learning_rate_groups(
    network: nn.Module, record: Injected
) -> list[tuple[float, dict[str, nn.Parameter]]]:
    """Return the trained parameters of a network, by name, for each factor on their learning rate.

    They are in the network's order, the factor that comes first in it first.
    """
    groups: dict[float, dict[str, nn.Parameter]] = {}
    for name, value in record.values.items():
        own = _own_parameters(network.get_submodule(name))
        group = groups.setdefault(value.lr_scale, {})
        group |= {f"{name}.{key}": parameter for key, parameter in own.items()}
    return list(groups.items())
