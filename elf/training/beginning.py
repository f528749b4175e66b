"""Lets an adapter begin from another one, or from some of the training's own samples.

The latter are EVA, CorDA and LoRA-GA.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from elf import adapters, processes
from elf.adapters import AdapterConfig
from elf.adapters.factored import INITIAL_A, INITIAL_B, NAME, axis_of, base_weight
from elf.adapters.initial import corda, eva, lora_ga
from elf.adapters.observing import Moments, Summed, input_moments, weight_gradients
from elf.errors import ElfError
from elf.export.trained import Layer, Trained, read_trained
from elf.training.compiling import uncompiled

Losses = Callable[[], Iterable[Tensor]]
"""Makes the loss of one batch after the other; each call begins anew."""

LOSS_SCALE = 2.0**16  # in fp16, whose smallest gradients would be lost; as GradScaler begins with


def begin(module: Any, trainer: Trainer) -> bool:
    """Let a new adapter begin from what its configuration names; return whether it names anything.

    Args:
        module: An ``AdapterModule`` on its device.
        trainer: At the start of its training.

    Raises:
        ElfError: If it cannot begin so.
    """
    config: AdapterConfig = module.adapter
    if config.start is not None:
        begin_from_adapter(module.networks.parts, read_trained(config.start, module.base_name))
        if trainer.is_global_zero:
            print(f"The adapter begins from {config.start}.")
    elif config.needs_data:
        begin_from_data(module, trainer)
    return config.start is not None or config.needs_data


@torch.no_grad()
def begin_from_adapter(networks: Mapping[str, nn.Module], other: Trained) -> None:
    """Let an adapter do what another of its layers, ranks and kind does, whatever the alphas.

    Args:
        networks: With a new adapter, by their names.
        other: The other one.

    Raises:
        ElfError: If it is of another kind or axis, or has other layers or ranks.
    """
    found = {layer.label: layer for layer in other.layers}
    own = {
        f"{part}.{adapters.file_key(name)}": module
        for part, network in networks.items()
        for name, module in network.named_modules()
        if hasattr(module, "lora_A")
    }
    if odd := sorted(own.keys() ^ found.keys()):
        side = "does not adapt" if odd[0] in own else "adapts"
        raise ElfError(
            f"model.adapter.start: {other.path} {side} {odd[0]} ({len(odd)} such layers); set "
            "model.adapter.targets and text_targets to what it has"
        )
    for label, layer in own.items():
        _adopt(layer, found[label], other)
    for network in networks.values():
        adapters.refresh_norms(network)


def _adopt(layer: Any, other: Layer, whole: Trained) -> None:
    a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    for key, mine, its in (
        ("kind", "dora" if layer.use_dora[NAME] else "lora", whole.config.kind),
        ("axis", axis_of(layer) if layer.use_dora[NAME] else "", other.axis),
        ("rank", len(a), other.rank),
    ):
        if mine not in (its, ""):
            raise ElfError(
                f"model.adapter.start: {other.label} of {whole.path} has {key} {its}, this config "
                f"says {mine}; set model.adapter.{key} to {its}"
            )
    a.copy_(other.a)
    b.copy_((other.b * (other.scale / layer.scaling[NAME])).view(b.shape))
    if other.magnitude is not None:
        magnitude = layer.lora_magnitude_vector[NAME].weight
        magnitude.copy_(other.magnitude.view(magnitude.shape))


def begin_from_data(module: Any, trainer: Trainer) -> None:
    """Run the first samples through a module's networks and let its new adapter begin from them.

    Args:
        module: An ``AdapterModule`` on its device.
        trainer: At the start of its training.

    Raises:
        ElfError: If the data give no first samples, or a layer cannot begin from what it sees.
    """
    config, networks, device = module.adapter, module.networks, module.device
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not hasattr(data, "first_batches"):
        raise ElfError(
            f"model.adapter.init: {config.init} begins from the first samples of a "
            "ShardDataModule; train with one, or take kaiming"
        )

    def losses() -> Iterator[Tensor]:
        for batch in data.first_batches(config.init_samples):
            batch = module.on_before_batch_transfer(batch, 0)
            batch = trainer.strategy.batch_to_device(batch)
            with trainer.precision_plugin.train_step_context():
                loss = module.training_errors(batch)[1].mean()
            yield loss

    start = time.perf_counter()
    with networks.adapter_off(), uncompiled():
        summed = functools.partial(processes.summed, device=device)
        set_factors(networks.parts, config.init, losses, summed)
    processes.give_all(networks.trained().values())  # of other cards results may be others
    for network in networks.parts.values():
        adapters.refresh_norms(network)
    if trainer.is_global_zero:
        seconds = time.perf_counter() - start
        print(f"The adapter begins from {config.init_samples} samples ({seconds:.0f} s).")


@torch.no_grad()
def set_factors(
    networks: Mapping[str, nn.Module],
    init: str,
    losses: Losses,
    summed: Summed = lambda tensor: tensor,
) -> None:
    """Set A and B, and what the update is measured from, in place; W' stays W.

    Args:
        networks: With a new adapter that is off, by their names.
        init: eva, corda or lora_ga.
        losses: Of the batches to begin from.
        summed: Sums over all processes, each of which has batches of its own.

    Raises:
        ElfError: If a layer sees no input, or one that is not finite.
    """
    layers = {
        f"{part}.{name}": module
        for part, network in networks.items()
        for name, module in network.named_modules()
        if hasattr(module, "lora_A")
    }
    of_layers = _from_gradients if init == "lora_ga" else _from_moments
    for name, factors in of_layers(layers, init, losses, summed):
        layer: Any = layers[name]
        a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        for own, factor in zip((a, b), factors, strict=False):  # EVA leaves B at zero
            own.copy_(factor)
        if hasattr(layer, INITIAL_A):
            getattr(layer, INITIAL_A).copy_(a)
            getattr(layer, INITIAL_B).copy_(b)


def _from_moments(
    layers: Mapping[str, Any], init: str, losses: Losses, summed: Summed
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    with input_moments(layers) as found:
        for _ in losses():
            pass
    whole: dict[int, Moments] = {}  # of all processes; layers that share an input share them
    for name, layer in layers.items():
        if name not in found:
            raise ElfError(
                f"model.adapter.init: {name} sees no input in training, from which {init} could "
                "begin; leave it out of the targets"
            )
        own = found[name]
        moments = whole.setdefault(id(own), own.of_all(summed))
        _refuse_not_finite(name, moments.covariance(), init)
        a = layer.lora_A[NAME].weight
        if init == "eva":
            yield name, (eva(moments.covariance().to(a.device), len(a)),)
        else:
            weight, second = base_weight(layer).float(), moments.second().to(a.device)
            yield name, corda(weight, second, len(a), layer.scaling[NAME])


def _from_gradients(
    layers: Mapping[str, Any], init: str, losses: Losses, summed: Summed
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    gradients = _gradients(layers, losses, summed)
    for name, layer in layers.items():
        a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        known = summed(gradients.get(name, torch.zeros(len(b), a.shape[1])))
        _refuse_not_finite(name, known, init)
        # None where no gradient arrives, as behind clip_skip: such a layer learns nothing either
        if (factors := lora_ga(known.to(a.device), len(a))) is not None:
            yield name, factors


def _gradients(
    layers: Mapping[str, nn.Module], losses: Losses, summed: Summed
) -> dict[str, Tensor]:
    """Return the sums of gradients, of a loss so scaled that fp16 can hold them."""
    scale = LOSS_SCALE
    while True:
        with torch.enable_grad(), weight_gradients(layers) as found:
            for loss in losses():
                (loss * scale).backward()  # type: ignore[no-untyped-call]
        bad = float(sum(not gradient.isfinite().all() for gradient in found.values()))
        if scale < 1 or not summed(torch.tensor(bad)):  # of all processes: they go on together
            return found
        scale /= 16


def _refuse_not_finite(name: str, values: Tensor, init: str) -> None:
    if not values.isfinite().all():
        raise ElfError(
            f"model.adapter.init: what {name} sees is not finite, so {init} cannot begin; train "
            "in bf16-mixed or 32-true, or take kaiming"
        )
