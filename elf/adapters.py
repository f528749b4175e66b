"""LoRA and DoRA adapters on a network: which layers, how many parameters, to and from files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from elf.errors import ElfError

# Suffixes of module names in diffusers' UNet; kohya's presets in diffusers' words.
TARGETS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention+feedforward": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
}
NAME = "default"  # peft's own name for a single adapter


@dataclass
class AdapterConfig:
    """What is trained.

    Attributes:
        kind: LoRA (Hu et al. 2021), or DoRA (Liu et al. 2024), which learns magnitudes too.
        rank: Rank of the update ΔW = (alpha / rank) · B A.
        alpha: Its scale's numerator; ``rank`` when left out.
        targets: Which layers of the UNet: a preset, or a list of module name suffixes.
        dropout: Probability that an input of A is dropped while training.
    """

    kind: Literal["lora", "dora"] = "lora"
    rank: int = 16
    alpha: float | None = None
    targets: Literal["attention", "attention+feedforward"] | list[str] = "attention"
    dropout: float = 0.0

    @property
    def scaling(self) -> float:
        """The factor alpha / rank."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank


def peft_config(config: AdapterConfig) -> LoraConfig:
    """Return peft's configuration of an adapter.

    Raises:
        ElfError: If a value makes no sense, with its name.
    """
    if config.rank < 1:
        raise ElfError(f"model.adapter.rank: {config.rank} is not a rank; take 4 to 128")
    if config.alpha is not None and config.alpha <= 0:
        raise ElfError(f"model.adapter.alpha: {config.alpha} must be above 0; rank is usual")
    if not 0 <= config.dropout < 1:
        raise ElfError(f"model.adapter.dropout: {config.dropout} must be in [0, 1)")
    preset = TARGETS.get(config.targets) if isinstance(config.targets, str) else config.targets
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.rank if config.alpha is None else config.alpha,
        target_modules=list(preset or []),
        lora_dropout=config.dropout,
        use_dora=config.kind == "dora",
        init_lora_weights=True,
    )


def inject(network: nn.Module, config: AdapterConfig) -> int:
    """Freeze a network, put an adapter into it in place, and return the number of its layers.

    The adapter's parameters are float32, the network's keep their type.

    Raises:
        ElfError: If no layer matches, or a pattern matches none.
    """
    names = [name for name, _ in network.named_modules()]
    settings = peft_config(config)
    for suffix in sorted(settings.target_modules):
        if not any(name == suffix or name.endswith("." + suffix) for name in names):
            linear = {
                name.rsplit(".", 1)[-1]
                for name, module in network.named_modules()
                if isinstance(module, nn.Linear | nn.Conv2d)
            }
            raise ElfError(
                f"model.adapter.targets: no layer is named {suffix!r}; "
                f"there are {', '.join(sorted(linear))}"
            )
    network.requires_grad_(False)
    inject_adapter_in_model(settings, network, adapter_name=NAME)
    for name, parameter in network.named_parameters():
        if is_adapter_key(name):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return len(layers(network))


def is_adapter_key(name: str) -> bool:
    """Whether a parameter's name is one of an adapter's."""
    return ".lora_" in name


def file_key(name: str) -> str:
    """Return a parameter's name as files have it: without the adapter's own name.

    DoRA's magnitude is stored as ``….lora_magnitude_vector.weight``: without the suffix diffusers
    loads the text encoders' wrongly.
    """
    return name.replace(f".{NAME}.", ".")


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's tensors by their names in files (not copied)."""
    return {
        file_key(name): parameter.detach()
        for name, parameter in network.named_parameters()
        if is_adapter_key(name)
    }


def load_adapter_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy an adapter's tensors into a network that has such an adapter.

    Raises:
        ElfError: If the names or shapes differ, with the first that does.
    """
    own = adapter_state(network)
    unknown = sorted(state.keys() ^ own.keys())
    if unknown:
        side = "lacks" if unknown[0] in own else "has"
        raise ElfError(
            f"adapter: the file {side} {unknown[0]} ({len(unknown)} such names); "
            "it was trained with other targets or another kind of adapter"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ElfError(
                    f"adapter: {name} has shape {tuple(state[name].shape)} in the file and "
                    f"{tuple(tensor.shape)} in the model; is it of another base or rank?"
                )
            tensor.copy_(state[name])


def layers(network: nn.Module) -> list[Any]:
    """Return the layers that carry an adapter."""
    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


@torch.no_grad()
def delta_weight(layer: Any) -> Tensor:
    """Return ΔW = W' − W of a layer in float32, in the shape of its weight (DoRA included)."""
    weight: Tensor = layer.get_base_layer().weight.float()
    delta: Tensor = layer.get_delta_weight(NAME).float()
    if not layer.use_dora[NAME]:
        return delta
    merged = weight + delta
    magnitude = layer.lora_magnitude_vector[NAME].weight.float().flatten()
    norm = merged.flatten(1).norm(dim=1)
    factor = (magnitude / norm).view(-1, *[1] * (weight.dim() - 1))
    change: Tensor = factor * merged - weight
    return change


def set_enabled(network: nn.Module, enabled: bool) -> None:
    """Switch the adapter on or off; off is the base model exactly, for DoRA too."""
    for layer in layers(network):
        layer.enable_adapters(enabled)


@contextmanager
def disabled(network: nn.Module) -> Iterator[None]:
    """The base model for as long as it lasts."""
    set_enabled(network, False)
    try:
        yield
    finally:
        set_enabled(network, True)


def set_strength(network: nn.Module, strength: float) -> None:
    """Scale the update ΔW by a factor; 1 is the adapter as it was trained."""
    for layer in layers(network):
        layer.set_scale(NAME, strength)


def metadata(config: AdapterConfig) -> dict[str, Any]:
    """Return the adapter's configuration as plain values, as peft writes it into files.

    Dropout is left out: who loads a file through diffusers gets the new layers in training mode,
    even under a network in evaluation mode, and would sample with it (diffusers 0.42).
    """
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in peft_config(replace(config, dropout=0.0)).to_dict().items()
    }


def describe(config: AdapterConfig) -> dict[str, Any]:
    """Return the configuration as plain values, to be compared when a run goes on."""
    return asdict(config)
