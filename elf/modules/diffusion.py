"""Trains a LoRA or DoRA adapter on a Stable Diffusion base."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from elf import adapters, objective, optimization, schedules
from elf.adapters import AdapterConfig
from elf.averaging import (
    EMAConfig,
    EvaluatedWeights,
    MovingAverage,
    is_schedule_free,
)
from elf.bases import Base, LatentEncoder, open_base, tokenize
from elf.beginning import begin
from elf.building import adapter_optimizer, base_dtype, build
from elf.checkpoints import evaluated_state, last_good
from elf.compiling import Scope, compile_network, notice, uncompiled
from elf.denoiser import Batch, Denoiser
from elf.errors import ElfError
from elf.generation import GenerationConfig
from elf.identity import flatten, refuse_other_run, warn_of_precision
from elf.kernels import can_compile
from elf.modules.stepped import SteppedModule
from elf.objective import ObjectiveConfig
from elf.optimization import LearningRates, OptimizerFactory, adamw
from elf.quantized import Kind
from elf.sampling import Sampler
from elf.schedules import ScheduleConfig
from elf.validation import ValidationRun
from elf.validationsets import HELD_OUT


class DiffusionModule(SteppedModule):
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
        super().__init__()
        adapters.validate(adapter)  # refuses what makes no sense before anything is loaded
        if lr_scheduler is not None and schedule != ScheduleConfig():
            raise ElfError("model.schedule and model.lr_scheduler: give one of the two")
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
        self.adapter = adapter
        self.objective = objective
        self.optimizer, self.learning_rates = optimizer, learning_rates
        self.schedule, self.lr_scheduler, self.ema = schedule, lr_scheduler, ema
        self.gradient_checkpointing, self.quantization = gradient_checkpointing, quantization
        self.cuda_graphs, self.fused_kernels = cuda_graphs, fused_kernels
        self.torch_compile = torch_compile
        self.validation_strata = validation_strata
        self.average: MovingAverage | None = None
        self.weights: EvaluatedWeights
        self._base: Base | None = None
        self.tokenizers: dict[str, Any] = {}
        self._base_errors: dict[str, Tensor] = {}  # id → (K,) errors with the adapter off
        self._configured: list[dict[str, Any]] = []
        self._made, self._saved_identity = dict[str, Any](), dict[str, Any]()
        self._validation, self._validating = ValidationRun(), ExitStack()

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
        if self.ema is not None:
            self.average = MovingAverage(self.ema, self.denoiser.trained)
        self.weights = EvaluatedWeights(self.denoiser.trained, self.average, self._optimizers)

    # --- the optimizer ----------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Give the optimizer the adapter's parameters alone, in groups by their part."""
        optimizer = adapter_optimizer(
            self.denoiser, self.injected, self.optimizer, self.learning_rates
        )
        trainer = self.trainer
        # trainer.estimated_stepping_batches would make the loader, whose state Lightning (2.6) then
        # forgets on resume
        steps = schedules.run_length(
            trainer.max_steps,
            trainer.max_epochs,
            trainer.datamodule.batches_an_epoch(),  # type: ignore[attr-defined]
            trainer.limit_train_batches,
            trainer.accumulate_grad_batches,
        )
        scheduler, made = schedules.choose(optimizer, self.schedule, self.lr_scheduler, steps)
        self._made = {"model.optimizer": type(optimizer).__name__, **flatten(made, "model.")}
        refuse_other_run(self._made, self._saved_identity)
        self._configured = optimization.options(optimizer)
        if scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _optimizers(self) -> list[Optimizer]:
        return self._trainer.optimizers if self._trainer else []

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and move the average, before any callback may save both."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.global_step + 1)

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

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the adapter's parameters."""
        return self.denoiser.trained_parameters()

    def parameters_changed(self) -> None:
        """Compute DoRA's norms again, if they are others now."""
        if self.adapter.kind == "dora":  # else to look for them would cost each step a millisecond
            self.denoiser.refresh_norms()

    # --- validation -------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Put the averaged weights in place, and begin with no picture."""
        self._validation = ValidationRun()
        self._validating.enter_context(uncompiled())
        self._validating.enter_context(self.weights.in_place())

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

    def on_validation_end(self) -> None:
        """Put the weights in training back."""
        self._validating.close()

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

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the adapter alone, as it is in training: the base is where it came from."""
        return self.weights.trained()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load an adapter; every tensor must be there and fit."""
        self.denoiser.load_trained(state_dict)
        return nn.modules.module._IncompatibleKeys([], [])

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a run goes on, by its key in the configuration."""
        described = {
            "adapter": adapters.describe(self.adapter),
            "objective": self.objective,
            "learning_rates": self.learning_rates,
            "schedule": self.schedule,
            "quantization": self.quantization,
            "prediction_type": self.base.prediction_type,
            "zero_terminal_snr": self.base.zero_terminal_snr,
            "clip_skip": self.base.clip_skip,
            "caption_tokens": self.base.caption_tokens,
        }
        values = flatten(described, "model.")
        del values["model.schedule.total_steps"]  # the run's length decides: `_made` has it
        return {**values, **self.trainer_identity(), "model.ema": self.ema and asdict(self.ema)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what identifies the base and the adapter; refuse to save a broken state."""
        self._losses.check()
        for key, tensor in checkpoint["state_dict"].items():
            if not torch.isfinite(tensor).all():
                where = last_good(self.trainer.default_root_dir)
                raise ElfError(
                    f"{key} is not finite after step {self.global_step}; {where}. Lower the "
                    "learning rate, or train in 32-true"
                )
        checkpoint["elf"] = {
            "identity": {**self.identity(), **self._made},
            "adapter": adapters.describe(self.adapter),
            "base_sha256": self.base.fingerprint("unet"),
            "base_options": self.base_options,
            "precision": self.run_precision,
        }
        if (evaluated := self.weights.evaluated()) is not None:
            checkpoint["elf"]["averaged"] = evaluated

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another configuration, naming the key and both values."""
        if checkpoint["elf"]["base_sha256"] != self.base.fingerprint("unet"):
            raise ElfError(
                f"model.base: the UNet of {self.base_name} is not the one this run was trained on; "
                "name that base, or start a new run without --ckpt_path"
            )
        self._saved_identity = checkpoint["elf"]["identity"]
        refuse_other_run(self.identity(), self._saved_identity)
        warn_of_precision(self.run_precision, checkpoint["elf"].get("precision"))
        if self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint["state_dict"] = evaluated_state(checkpoint)
        if self.average is not None:
            self.average.load(checkpoint["elf"]["averaged"])

    def on_fit_start(self) -> None:
        """Let an adapter begin from data or a file; one that goes on has begun."""
        if not self.trainer.ckpt_path and begin(self, self.trainer) and self.average is not None:
            self.average.restart()

    def on_train_start(self) -> None:
        """Refuse to go on silently with another learning rate than the configuration's."""
        super().on_train_start()
        if self.trainer.is_global_zero:
            if self.torch_compile is not None:
                print(notice(self.torch_compile))
            print(*(record.summary_lines()[0] for record in self.injected.values()), sep="\n")
        for optimizer in self.trainer.optimizers:
            optimization.refuse_others(optimizer, self._configured)
            if is_schedule_free(optimizer):
                optimizer.train()  # type: ignore[attr-defined]
