"""The training step of a configuration, run without numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from elf import adapters
from elf.adapters import AdapterConfig, Injected
from elf.bases import Base
from elf.bases.chunks import CHUNK
from elf.bases.text import TOKENS
from elf.objective import ObjectiveConfig
from elf.planning.kernels import Kernel
from elf.planning.memory import (
    Memory,
    State,
    bytes_of,
    frozen_bytes,
    optimizer_state,
    reserve,
    state_bytes,
)
from elf.planning.tracing import Pretence, tolerated, watch
from elf.preparation.buckets import Size
from elf.quantized import Kind
from elf.training import optimization
from elf.training.building import Built, build
from elf.training.optimization import LearningRates, OptimizerFactory
from elf.training.recomputing import outer_blocks


@dataclass(frozen=True)
class Choice:
    """What one would change for the sake of memory.

    Attributes:
        batch: Pictures a pass.
        gradient_checkpointing: Whether activations are recomputed, or of which blocks.
        quantization: Of the frozen UNet.
        optimizer: Makes the optimizer.
    """

    batch: int
    gradient_checkpointing: bool | tuple[str, ...]
    quantization: Kind | None
    optimizer: OptimizerFactory


@dataclass(frozen=True)
class Footprint:
    """What a step takes.

    Attributes:
        memory: At its peak.
        kept: Bytes of what the forward pass leaves for the backward pass.
        kernels: Of a pass.
        injected: What is trained of each network.
        optimizer: Its class.
        state: What it keeps.
        shapes: Of the trained parameters.
        left: Bytes that the forward pass of each of the UNet's blocks leaves alive, by their names.
    """

    memory: Memory
    kept: int
    kernels: list[Kernel]
    injected: Mapping[str, Injected]
    optimizer: str
    state: State
    shapes: list[tuple[int, ...]]
    left: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(each.parameters for each in self.injected.values())


class _Weightless:
    """The parts of a base, made by their configurations alone."""

    def __init__(self, parts: Any, pretence: Pretence, read: list[int]) -> None:
        self._parts, self._pretence = parts, pretence
        self._read = read  # bytes of each part that was made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts, name)

    def network(self, part: str, cls: Any, dtype: torch.dtype) -> nn.Module:
        """Make a part by its class; of its weights there are shapes alone."""
        config = self._parts.config(part)
        with self._pretence(dtype):
            if hasattr(cls, "config_class"):  # of transformers
                network: nn.Module = cls(cls.config_class.from_dict(config))
            else:
                network = cls.from_config(config)
        self._read.append(bytes_of(network.parameters()))
        return network.eval()


@dataclass(frozen=True)
class PlannedTraining:
    """A training that is not started.

    Attributes:
        base: The base; its weights are not read.
        adapter: What is trained.
        objective: The objective.
        dtype: Of the frozen weights.
        text_states: ``live`` or ``cached``.
        rates: Learning rates of parts.
        averaged: Whether a moving average is kept.
        masked: Whether batches have masks.
        preserved: Share of samples whose target is what the base predicts, 0-1.
        fused: Whether the UNet works in Elf's kernels.
    """

    base: Base
    adapter: AdapterConfig
    objective: ObjectiveConfig
    dtype: torch.dtype
    text_states: str
    rates: LearningRates
    averaged: bool = False
    masked: bool = False
    preserved: float = 0.0
    fused: bool = True

    @property
    def latent_factor(self) -> int:
        """Pixels of a picture for one of its latent, along a side."""
        return self.factor_of(self.base)

    @staticmethod
    def factor_of(base: Base) -> int:
        """Return a base's `latent_factor`."""
        return int(2 ** (len(base.config("vae")["block_out_channels"]) - 1))

    @property
    def text_shape(self) -> tuple[int, int, int]:
        """Tokens, width of a caption's states, and width of the pooled one (0 without)."""
        encoders = [self.base.config(name) for name in self.base.text_encoder_names]
        tokens = min(TOKENS, int(encoders[0].get("max_position_embeddings", TOKENS)))
        width = sum(int(each["hidden_size"]) for each in encoders)
        pooled = int(encoders[-1]["projection_dim"]) if self.base.conditions else 0
        return tokens * (self.base.caption_tokens // CHUNK), width, pooled

    def footprint(self, choice: Choice, size: Size) -> Footprint:
        """Return what a step takes.

        Args:
            choice: What is trained how.
            size: Width and height of the pictures, px.

        Raises:
            ElfError: For what cannot be trained so, as `build` does.
        """
        pretence, read = Pretence(), list[int]()
        with tolerated():
            built = build(
                self.base.with_parts(lambda parts: _Weightless(parts, pretence, read)),
                self.adapter,
                self.objective,
                self.dtype,
                self.text_states,
                choice.gradient_checkpointing,
                choice.quantization,
                fused=self.fused,
            )
        denoiser = built.denoiser
        trained = [each for each in denoiser.parameters() if each.requires_grad]
        optimizer, state = self._optimizer(built, choice.optimizer, pretence)
        with pretence():
            for network in denoiser.parts.values():
                adapters.reuse_norms(network, optimizer)
            batch = self.batch(choice.batch, size, built)
            seen = watch(
                lambda: denoiser.training_errors(batch)[1].mean(),
                lambda loss: torch.autograd.grad(loss, trained, allow_unused=True),
                outer_blocks(denoiser.unet),
            )
        numbers = sum(each.numel() for each in trained)
        # of a parameter: itself, its gradient, and its average, in float32
        own = 4 * numbers * (3 if self.averaged else 2)
        gaps = reserve(sum(read), bool(choice.gradient_checkpointing))
        memory = Memory(frozen_bytes(denoiser), own + state.size, seen.peak, gaps)
        return Footprint(
            memory,
            seen.kept,
            seen.kernels,
            built.injected,
            type(optimizer).__name__,
            state,
            [tuple(each.shape) for each in trained],
            seen.left,
        )

    def _optimizer(
        self, built: Built, factory: OptimizerFactory, pretence: Pretence
    ) -> tuple[torch.optim.Optimizer, State]:
        """Return the optimizer, and what its state takes after a step without numbers."""
        with pretence():
            groups = {
                part: [
                    (scale, {name: nn.Parameter(torch.empty_like(p)) for name, p in named.items()})
                    for scale, named in adapters.learning_rate_groups(network, built.injected[part])
                ]
                for part, network in built.denoiser.parts.items()
            }
        try:
            with pretence():
                optimizer = optimization.make_optimizer(factory, groups, self.rates)
        except DataDependentOutputException:  # bitsandbytes' make tables of numbers
            optimizer = optimization.make_optimizer(factory, groups, self.rates)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        known = optimizer_state(type(optimizer).__name__, [tuple(p.shape) for p in parameters])
        if known.known or not type(optimizer).__module__.startswith("torch.optim"):
            return optimizer, known
        with pretence():
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            try:
                optimizer.step()
            except DataDependentOutputException:  # it looks at values
                return optimizer, known
            return optimizer, State(state_bytes(optimizer), True)

    def batch(self, count: int, size: Size, built: Built) -> dict[str, Any]:
        """Return a batch without numbers, as training has it on the device."""
        width, height = (side // self.latent_factor for side in size)
        channels = int(self.base.config("unet").get("in_channels", 4))
        latents = torch.empty(count, channels, height, width)
        pairs = torch.empty(count, 2, dtype=torch.long)
        batch: dict[str, Any] = {
            "latents": latents,
            "noise": torch.empty_like(latents),
            "input_noise": torch.empty_like(latents),
            "timesteps": torch.empty(count, dtype=torch.long),
            "loss_weight": torch.empty(count),
            "original_size": pairs,
            "crop": pairs,
            "size": pairs,
        }
        if self.masked:
            batch["mask"] = torch.empty(count, height, width)
        rows = math.ceil(self.preserved * count)
        batch["preserved"] = torch.empty(rows, dtype=torch.long)
        tokens, width, pooled = self.text_shape
        if built.tokenizers:
            names = list(built.tokenizers)
            batch["tokens"] = {name: torch.empty(count, tokens, dtype=torch.long) for name in names}
            return batch
        states: dict[str, Tensor] = {"text": torch.empty(count, tokens, width)}
        if pooled:
            states["pooled"] = torch.empty(count, pooled)
        return batch | states
