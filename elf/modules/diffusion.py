"""Trains a LoRA or DoRA adapter on a Stable Diffusion base."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from PIL import Image
from torch import Tensor, nn

from elf import objective
from elf.adapters import AdapterConfig
from elf.bases import Base, LatentEncoder, open_base, tokenize
from elf.errors import ElfError
from elf.generation import GenerationConfig
from elf.kernels import can_compile
from elf.modules.adapter import AdapterModule
from elf.objective import ObjectiveConfig
from elf.quantized import Kind
from elf.training.averaging import (
    EMAConfig,
)
from elf.training.building import base_dtype, build
from elf.training.compiling import Scope, compile_network, notice
from elf.training.denoiser import Batch, Denoiser
from elf.training.optimization import LearningRates, OptimizerFactory, adamw
from elf.training.sampling import Sampler
from elf.training.schedules import ScheduleConfig
from elf.training.validation import ValidationRun
from elf.training.validationsets import HELD_OUT


class DiffusionModule(AdapterModule):
    """An adapter in training: cached latents and text states in, a denoising loss out.

    The base is frozen, in the trainer's 16-bit type if it has one; the adapter is float32.

    Args:
        base: The base model: a folder in diffusers' layout, a hub name, or a .safetensors file.
        adapter: What is trained.
        objective: What training minimises.
        optimizer: Optimizer, given the adapter's parameters.
        learning_rates: Those of parts, where they differ from the optimizer's.
        schedule: How the learning rate changes over the run.
        lr_scheduler: A schedule of torch's instead, advanced once an optimizer step.
        ema: A moving average of the adapter, which is evaluated and exported; null for none.
        gradient_checkpointing: Recompute activations in the backward pass, of all blocks or of
            those named: less memory, up to a third more time.
        quantization: How the frozen UNet's linear layers are kept, nf4 or int8; null in 16 bit.
        cuda_graphs: On a GPU, launch a step as one recorded graph instead of thousands of kernels.
        fused_kernels: On a GPU, do a UNet's norms, gates and sums in kernels of Elf's own.
        torch_compile: Compile the UNet's blocks, or the full UNet, for training; null for neither.
        validation_strata: K, the timesteps at which the validation loss is measured.
        prediction_type: What the base predicts, epsilon or v_prediction; null leaves it to the
            base.
        zero_terminal_snr: Whether its last timestep has no signal; null leaves it to the base.
        clip_skip: Layers from the text encoder's end at which its states are taken; 2 is the last
            but one. Null leaves it to the base.
        base_configs: Folder of component configurations, for a single file whose networks are not
            the usual ones.
        caption_tokens: Tokens of a caption at most; above 75 it is encoded in chunks of 75.
    """

    denoiser: Denoiser
    network_title = "the UNet"

    def __init__(
        self,
        base: str,
        adapter: AdapterConfig = AdapterConfig(),  # noqa: B008 (a constant to jsonargparse)
        objective: ObjectiveConfig = ObjectiveConfig(),  # noqa: B008
        optimizer: OptimizerFactory = adamw,
        learning_rates: LearningRates = LearningRates(),  # noqa: B008
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        lr_scheduler: LRSchedulerCallable | None = None,
        ema: EMAConfig | None = None,
        gradient_checkpointing: bool | list[str] = False,
        quantization: Kind | None = None,
        cuda_graphs: bool = True,
        fused_kernels: bool = True,
        torch_compile: Scope | None = None,
        validation_strata: int = 8,
        prediction_type: Literal["epsilon", "v_prediction"] | None = None,
        zero_terminal_snr: bool | None = None,
        clip_skip: int | None = None,
        base_configs: str | None = None,
        caption_tokens: Literal[75, 150, 225] = 75,
    ) -> None:
        super().__init__(adapter, optimizer, learning_rates, schedule, lr_scheduler, ema)
        if validation_strata < 1:
            raise ElfError(f"model.validation_strata {validation_strata} must be at least 1")
        self.base_name = base
        self.base_options: dict[str, Any] = {
            "prediction_type": prediction_type,
            "zero_terminal_snr": zero_terminal_snr,
            "clip_skip": clip_skip,
            "base_configs": base_configs,
            "caption_tokens": caption_tokens,
        }
        self.objective = objective
        self.gradient_checkpointing, self.quantization = gradient_checkpointing, quantization
        self.cuda_graphs, self.fused_kernels = cuda_graphs, fused_kernels
        self.torch_compile = torch_compile
        self.validation_strata = validation_strata
        self._base: Base | None = None
        self.tokenizers: dict[str, Any] = {}
        self._base_errors: dict[str, Tensor] = {}  # id → (K,) errors with the adapter off
        self._validation = ValidationRun()

    @property
    def base(self) -> Base:
        """The base model, looked up at first use."""
        if self._base is None:
            self._base = open_base(self.base_name, *self.base_options.values())
        return self._base

    @property
    def unet(self) -> nn.Module:
        """The denoising network, adapter included."""
        return self.denoiser.unet

    def encoder(self, device: torch.device) -> LatentEncoder:
        """Return what makes the caches that this module trains from."""
        return self.base.encoder(device)

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the models whose outputs the caches must hold."""
        return self.base.encoder_fingerprints()

    def configure_model(self) -> None:
        """Load the networks, freeze them and put a new adapter into them."""
        if hasattr(self, "denoiser"):
            return
        trainer = self._trainer
        device = trainer.strategy.root_device if trainer else self.device
        built = build(
            self.base,
            self.adapter,
            self.objective,
            dtype=base_dtype(self.run_precision),
            text_states=getattr(getattr(trainer, "datamodule", None), "text_mode", None),
            gradient_checkpointing=self.gradient_checkpointing,
            quantization=self.quantization,
            device=device,
            fused=self.fused_kernels and self.torch_compile is None and can_compile(device),
        )
        self.denoiser, self.injected, self.tokenizers = built
        if self.torch_compile is not None:
            compile_network(self.unet, self.torch_compile, device)
        self.watch_weights()

    # --- the step ---------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> Any:
        """Draw what is random from each sample's own seed, on the CPU, before the step.

        So a step is a function of its batch, whatever the device, the workers and the ranks.
        """
        batch = self._with_tokens(dict(batch))  # on the CPU still: nothing waits for the device
        if not self.trainer.training:
            return batch
        # As row numbers, found here on the CPU: the step then waits for no mask of the GPU's.
        batch["preserved"] = batch["preserved"].nonzero()[:, 0]
        drawn = objective.draw(batch, self.objective, self.denoiser.timesteps)
        drawn_from = ("latent_mean", "latent_std")  # of no more use: they stay here
        kept = {key: value for key, value in batch.items() if key not in drawn_from}
        return super().on_before_batch_transfer({**kept, **drawn}, dataloader_idx)

    def _with_tokens(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.tokenizers and "tokens" not in batch:
            tokens = tokenize(self.tokenizers, batch["caption"], self.base.caption_tokens)
            batch["tokens"] = {name: ids.to(batch["seed"].device) for name, ids in tokens.items()}
        return batch

    def training_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each sample's error (B,), as it is and as it counts."""
        return self.denoiser.training_errors(batch)

    # --- validation -------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Put the averaged weights in place, and begin with no picture."""
        self._validation = ValidationRun()
        super().on_validation_start()

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Measure the denoising error at fixed timesteps with noise that each picture's id fixes.

        Neither batch size, order nor the number of devices changes it. ``val/ratio`` compares with
        the base (adapter off): below 1 the adapter has learnt something of these pictures.
        """
        errors, base = self.stratified_errors(batch), self.errors_of_base(batch)  # (B, K)
        kind = batch.get("kind", HELD_OUT)
        self._validation.sets[kind].add(batch["id"], errors.cpu().numpy(), base.cpu().numpy())

    def on_validation_epoch_end(self) -> None:
        """Bring the pictures of all processes together and log the means."""
        if self.trainer.world_size > 1:
            self._validation.gather()
        for name, value in self._validation.metrics().items():
            self.log(name, value, prog_bar=name in ("val/loss", "val/ratio"))

    def stratified_errors(self, batch: dict[str, Any]) -> Tensor:
        """Return the squared errors (B, K) of a validation batch at the K fixed timesteps."""
        return self.denoiser.evaluation_errors(self._with_tokens(batch), self.validation_strata)

    def errors_of_base(self, batch: dict[str, Any]) -> Tensor:
        """Return the same (B, K) with the adapter off, measured once for each picture."""
        if any(key not in self._base_errors for key in batch["id"]):
            with self.denoiser.adapter_off():
                errors = self.stratified_errors(batch)
            self._base_errors |= dict(zip(batch["id"], errors, strict=True))
        return torch.stack([self._base_errors[key] for key in batch["id"]])

    # --- pictures ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: list[str],
        config: GenerationConfig,
        seeds: list[int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[Image.Image]:
        """Sample one picture for each prompt with the adapter as it is now.

        Without ``seeds`` the first prompt takes the configuration's seed, the next ones the next.
        """
        if seeds is None:
            seeds = list(range(config.seed, config.seed + len(prompts)))
        with self.weights.in_place():
            return self._sampler(prompts, seeds, config, self.device, stop)

    def remember_prompts(self, prompts: list[str], config: GenerationConfig) -> None:
        """Make what is needed of the text encoders to sample, while there is memory for them."""
        self._sampler.remember(prompts, config, self.device)

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self.base, self.denoiser, self.adapter.text_targets is not None)

    # --- checkpoints ------------------------------------------------------------------------

    @property
    def networks(self) -> Denoiser:
        """The networks, the adapter in them."""
        return self.denoiser

    @property
    def base_sha256(self) -> str:
        """The hash of the UNet."""
        return self.base.fingerprint("unet")

    def chosen(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""
        return {
            "objective": self.objective,
            "quantization": self.quantization,
            "prediction_type": self.base.prediction_type,
            "zero_terminal_snr": self.base.zero_terminal_snr,
            "clip_skip": self.base.clip_skip,
            "caption_tokens": self.base.caption_tokens,
        }

    def on_train_start(self) -> None:
        """Say what compiling will cost, before it is paid."""
        if self.torch_compile is not None and self.trainer.is_global_zero:
            print(notice(self.torch_compile))
        super().on_train_start()
