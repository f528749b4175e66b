"""Builds the network that is trained: base, adapter and objective put together."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from elf import adapters, objective
from elf.adapters import AdapterConfig, Injected
from elf.bases import Base
from elf.errors import ElfError, ElfWarning
from elf.fused import fuse
from elf.objective import ObjectiveConfig
from elf.quantized import Kind, quantize, refuse_missing
from elf.training.adapted import AdaptedNetworks
from elf.training.denoiser import Denoiser
from elf.training.optimization import LearningRates, OptimizerFactory, make_optimizer
from elf.training.recomputing import checkpoint_blocks

BASE_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16}


def base_dtype(precision: str) -> torch.dtype:
    """Return the type of the frozen weights under a trainer's precision."""
    return BASE_DTYPES.get(precision.split("-")[0], torch.float32)


def adapter_optimizer(
    networks: AdaptedNetworks,
    injected: Mapping[str, Injected],
    factory: OptimizerFactory,
    rates: LearningRates,
) -> Optimizer:
    """Return the optimizer of an adapter's parameters, after whose steps DoRA's norms are new.

    Args:
        networks: With the adapter.
        injected: What is trained of each network.
        factory: Makes the optimizer.
        rates: Learning rates of parts.
    """
    groups = {
        part: adapters.learning_rate_groups(network, injected[part])
        for part, network in networks.parts.items()
    }
    optimizer = make_optimizer(factory, groups, rates)
    for network in networks.parts.values():
        adapters.reuse_norms(network, optimizer)
    return optimizer


class Built(NamedTuple):
    """What ``build`` returns.

    Attributes:
        denoiser: The networks, the adapter in them.
        injected: What is trained of each network.
        tokenizers: Of the text encoders that work in each step, by the encoder's name.
    """

    denoiser: Denoiser
    injected: dict[str, Injected]
    tokenizers: dict[str, Any]


def build(
    base: Base,
    adapter: AdapterConfig,
    config: ObjectiveConfig,
    dtype: torch.dtype = torch.float32,
    text_states: str | None = None,
    gradient_checkpointing: bool | Sequence[str] = False,
    quantization: Kind | None = None,
    device: torch.device | None = None,
    fused: bool = False,
) -> Built:
    """Load a base's networks, freeze them, and put a new adapter into them.

    Args:
        base: The base.
        adapter: What is trained.
        config: The objective.
        dtype: Of the frozen weights; the adapter is in float32.
        text_states: ``live`` if captions are encoded in each step, ``cached`` if their states are
            given; None if that is not known: then they are cached unless they are trained.
        gradient_checkpointing: Whether to recompute activations in the backward pass, or of which
            blocks.
        quantization: How the UNet's linear layers are kept; None leaves them as they are.
        device: Where they are quantised, one after the other; the networks stay on the CPU.
        fused: Use Elf's kernels in the UNet.

    Raises:
        ElfError: If the options do not suit the base or each other, with the key.
    """
    refuse_missing(quantization)
    alphas_cumprod = base.noise_schedule.alphas_cumprod
    objective.bounds(config.timesteps, len(alphas_cumprod))
    if note := objective.refuse_singular(config, base.prediction_type, alphas_cumprod):
        warnings.warn(note, ElfWarning, stacklevel=2)
    trains_text = adapter.text_targets is not None
    if trains_text and text_states == "cached":
        raise ElfError(
            "model.adapter.text_targets trains the text encoders, and data.text_states cached "
            "would keep what they said before: set data.text_states to live"
        )
    encoders: dict[str, Any] = {}
    if trains_text or text_states == "live":
        encoders = {name: base.text_encoder(name, dtype) for name in base.text_encoder_names}
    networks: dict[Any, Any] = {"unet": base.unet(dtype), **encoders}
    if quantization is not None:
        quantize(networks["unet"], quantization, device)
    injected = {str(part): one for part, one in adapters.inject_all(networks, adapter).items()}
    if fused:
        fuse(networks["unet"], device)
    for network in networks.values():
        network.train()  # from_pretrained leaves it in eval mode: no adapter dropout
    checkpoint_blocks(
        networks if trains_text else {"unet": networks["unet"]}, gradient_checkpointing
    )
    denoiser = Denoiser(networks["unet"], base, config, encoders, trains_text, dtype)
    return Built(denoiser, injected, {name: base.tokenizer(name) for name in encoders})
