"""An adapter on, off, stronger, weaker, or for good in the weights."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from elf.adapters.factored import NAME, base_weight, delta_weight, layers
from elf.adapters.norms import refresh_norms
from elf.errors import ElfError
from elf.quantized import QuantizedLinear


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
    """Scale the update ΔW = s B A by a factor; 1 is the adapter as it was trained.

    At 0 a LoRA is the base model. A DoRA is not, as its magnitudes stay: W' is m ⊙ W / ‖W‖. To
    compare with the base, use `disabled`. A captured graph keeps the strength of its capture.
    """
    for layer in layers(network):
        layer.set_scale(NAME, strength)
    refresh_norms(network)


@contextmanager
def at_strength(networks: Iterable[nn.Module], strength: float) -> Iterator[None]:
    """Networks with their adapter scaled, for as long as it lasts; 0 is the base itself.

    A DoRA whose update is scaled to 0 is not: its magnitudes remain. So it is switched off then.
    """
    networks = list(networks)
    with ExitStack() as stack:
        for network in networks if strength != 1 else ():
            if strength == 0:
                stack.enter_context(disabled(network))
            else:
                stack.callback(set_strength, network, 1.0)
                set_strength(network, strength)
        yield


def remove(network: nn.Module) -> None:
    """Take the adapter out, so that the network is the base's again, bit for bit."""
    adapted = [(n, m) for n, m in network.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        network.set_submodule(name, layer.get_base_layer())
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        network.__dict__.pop(leftover, None)


@torch.no_grad()
def merge(network: nn.Module) -> None:
    """Put W' into the weights, rounded to their type, and take the adapter out, for good.

    What comes out is a network like any of its class, to be saved by ``save_pretrained``.

    Raises:
        ElfError: If the network is quantised, of whose weights too little is left to be saved.
    """
    adapted = [(n, m) for n, m in network.named_modules() if isinstance(m, BaseTunerLayer)]
    if any(isinstance(layer.get_base_layer(), QuantizedLinear) for _, layer in adapted):
        raise ElfError(
            "adapters.merge: this base is quantised; load it without quantization, and the adapter "
            "into that, to merge the two"
        )
    for _, layer in adapted:
        base = layer.get_base_layer()
        base.weight.copy_(base_weight(layer).float() + delta_weight(layer))
    remove(network)
