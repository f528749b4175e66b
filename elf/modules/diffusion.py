"""Trains a LoRA or DoRA adapter on the UNet of a Stable Diffusion base."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from elf import adapters, diffusion
from elf.adapters import AdapterConfig
from elf.bases import LatentEncoder, StableDiffusionBase
from elf.errors import ElfError
from elf.generation import GenerationConfig, generate

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
BASE_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16}


def adamw(parameters: Iterable[Any]) -> Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019) with a learning rate that suits most adapters."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2)


class DiffusionModule(LightningModule):
    """An adapter in training: cached latents and text states in, a denoising loss out.

    The base is frozen, in the trainer's 16-bit type if it has one; the adapter is float32.

    Args:
        base: Folder or hub name of the base model, in diffusers' layout.
        adapter: What is trained.
        optimizer: Optimizer, given the adapter's parameters.
        lr_scheduler: Learning rate schedule, advanced once an optimizer step.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third
            more time.
        min_snr_gamma: γ of min-SNR weighting; None weighs all timesteps alike.
        validation_strata: K, the timesteps at which the validation loss is measured.
    """

    unet: nn.Module

    def __init__(
        self,
        base: str,
        adapter: AdapterConfig = AdapterConfig(),  # noqa: B008 (a constant to jsonargparse)
        optimizer: OptimizerFactory = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        gradient_checkpointing: bool = False,
        min_snr_gamma: float | None = 5.0,
        validation_strata: int = 8,
    ) -> None:
        super().__init__()
        adapters.peft_config(adapter)  # refuses what makes no sense before anything is loaded
        self.base_name = base
        self.adapter = adapter
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.gradient_checkpointing = gradient_checkpointing
        self.min_snr_gamma = min_snr_gamma
        self.validation_strata = validation_strata
        self._base: StableDiffusionBase | None = None
        self._pipeline: Any = None
        self._base_errors: dict[str, Tensor] = {}  # id → (K,) errors with the adapter off
        self._configured_groups: list[dict[str, Any]] = []
        self._unchecked_loss: tuple[Tensor, int, list[str]] | None = None

    @property
    def base(self) -> StableDiffusionBase:
        """The base model, looked up at first use."""
        if self._base is None:
            self._base = StableDiffusionBase(self.base_name)
        return self._base

    def encoder(self, device: torch.device) -> LatentEncoder:
        """Return what makes the caches that this module trains from."""
        return self.base.encoder(device)

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the models whose outputs the caches must hold."""
        return self.base.encoder_fingerprints()

    def configure_model(self) -> None:
        """Load the UNet, freeze it and put a new adapter into it."""
        if hasattr(self, "unet"):
            return
        precision = str(self._trainer.precision if self._trainer else "32-true")
        self.base_dtype = BASE_DTYPES.get(precision.split("-")[0], torch.float32)
        unet: Any = self.base.unet(self.base_dtype)
        self.adapted_layers = adapters.inject(unet, self.adapter)
        if self.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.unet = unet.train()  # from_pretrained leaves it in eval mode: no adapter dropout
        schedule = self.base.noise_schedule
        self.prediction_type = str(schedule.config.prediction_type)
        self._refuse_schedule(schedule.alphas_cumprod)
        self.alphas_cumprod: Tensor
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod.clone(), persistent=False)

    def _refuse_schedule(self, alphas_cumprod: Tensor) -> None:
        known = get_args(diffusion.PredictionType)
        if self.prediction_type not in known:
            raise ElfError(
                f"model.base: {self.base_name} predicts {self.prediction_type!r}; "
                f"Elf trains bases that predict {' or '.join(known)}"
            )
        if self.prediction_type == "epsilon" and self.min_snr_gamma and alphas_cumprod[-1] == 0:
            raise ElfError(
                "model.min_snr_gamma: the base's last timestep has no signal (zero-terminal SNR), "
                "where this weight of an ε loss is 0/0; set it to null"
            )

    def configure_optimizers(self) -> Any:
        """Give the optimizer the adapter's parameters alone."""
        parameters = [p for p in self.unet.parameters() if p.requires_grad]
        optimizer = self.optimizer(parameters)
        scheduler = None if self.lr_scheduler is None else self.lr_scheduler(optimizer)
        self._configured_groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        if scheduler is None:
            return optimizer
        schedule = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    # --- the step ---------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> Any:
        """Draw what is random from each sample's own seed, on the CPU, before the step.

        So a step is a function of its batch, whatever the device, the workers and the ranks.
        """
        if not self.trainer.training:
            return batch
        batch = dict(batch)
        sources = diffusion.generators(batch["seed"])
        # As row numbers, found here on the CPU: the step then waits for no mask of the GPU's.
        batch["preserved"] = batch["preserved"].nonzero()[:, 0]
        mean, std = batch.pop("latent_mean"), batch.pop("latent_std")
        shape = tuple(mean.shape[1:])
        batch["timesteps"] = diffusion.draw_timesteps(sources, len(self.alphas_cumprod))
        batch["latents"] = mean + std * diffusion.draw_noise(sources, shape)
        batch["noise"] = diffusion.draw_noise(sources, shape)
        return batch

    def forward(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Return the network's prediction (B, C, h, w) for noisy latents of that shape."""
        prediction: Tensor = self.unet(
            noisy.to(self.base_dtype), timesteps, text.to(self.base_dtype), return_dict=False
        )[0]
        return prediction

    def _errors(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        text: Tensor,
        preserved: Tensor | None = None,
    ) -> Tensor:  # (B,)
        noisy = diffusion.add_noise(latents, noise, timesteps, self.alphas_cumprod)
        wanted = diffusion.target(
            self.prediction_type, latents, noise, timesteps, self.alphas_cumprod
        )
        if preserved is not None and len(preserved):
            rows = (noisy[preserved], timesteps[preserved], text[preserved])
            wanted = wanted.index_copy(0, preserved, self._base_prediction(*rows))
        return diffusion.squared_error(self(noisy, timesteps, text), wanted)

    @torch.no_grad()
    def _base_prediction(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Return what the base predicts (R, C, h, w): the target of prior preservation.

        DreamBooth (Ruiz et al. 2023, equation 2) trains on pictures that the base made; here the
        base's prediction itself is kept, as in Learning without Forgetting (Li & Hoiem 2016).
        """
        with adapters.disabled(self.unet):
            prediction: Tensor = self(noisy, timesteps, text).float()
        return prediction

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean squared error of a batch, weighted by min-SNR and by set."""
        self._refuse_non_finite_loss()  # of the batch before: nothing waits for the GPU
        timesteps = batch["timesteps"]
        errors = self._errors(
            batch["latents"], batch["noise"], timesteps, batch["text"], batch["preserved"]
        )
        if self.min_snr_gamma is not None:
            errors = errors * diffusion.min_snr_weight(
                self.prediction_type, timesteps, self.alphas_cumprod, self.min_snr_gamma
            )
        loss: Tensor = (errors * batch["loss_weight"]).mean()
        self._unchecked_loss = (loss.detach(), self.global_step, batch["id"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(errors))
        return loss

    def _refuse_non_finite_loss(self) -> None:
        if self._unchecked_loss is None:
            return
        loss, step, ids = self._unchecked_loss
        self._unchecked_loss = None
        if not torch.isfinite(loss):
            raise ElfError(
                f"the loss is {float(loss)} at step {step} (pictures {', '.join(ids)}); the last "
                "checkpoint is from before. Lower the learning rate, or train in 32-true"
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure the denoising error at fixed timesteps with noise that each picture's id fixes.

        Neither batch size, order nor the number of devices changes it. ``val/ratio`` compares with
        the base (adapter off): below 1 the adapter has learnt something of these pictures.
        """
        errors = self.stratified_errors(batch)  # (B, K)
        base = self.errors_of_base(batch)  # (B, K)
        size = len(errors)
        self.log_dict(
            {"val/loss": errors.mean(), "val/loss_base": base.mean()},
            batch_size=size,
            sync_dist=True,
            prog_bar=True,
        )
        for stratum, value in enumerate(errors.mean(dim=0)):
            self.log(f"val/loss_stratum_{stratum}", value, batch_size=size, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the ratio to the base of the whole set (not the mean of the batches' ratios)."""
        metrics = self.trainer.callback_metrics
        if "val/loss" in metrics:
            self.log("val/ratio", metrics["val/loss"] / metrics["val/loss_base"])

    def stratified_errors(self, batch: dict[str, Any]) -> Tensor:
        """Return the squared errors (B, K) of a validation batch at the K fixed timesteps."""
        latents = batch["latent_mean"]
        columns = []
        strata = diffusion.stratified_timesteps(self.validation_strata, len(self.alphas_cumprod))
        for stream, timestep in enumerate(strata, 1):
            sources = diffusion.generators(batch["seed"].cpu(), stream)
            noise = diffusion.draw_noise(sources, tuple(latents.shape[1:])).to(latents.device)
            timesteps = timestep.to(latents.device).expand(len(latents))
            columns.append(self._errors(latents, noise, timesteps, batch["text"]))
        return torch.stack(columns, dim=1)

    def errors_of_base(self, batch: dict[str, Any]) -> Tensor:
        """Return the same (B, K) with the adapter off, measured once for each picture."""
        if any(key not in self._base_errors for key in batch["id"]):
            with adapters.disabled(self.unet):
                errors = self.stratified_errors(batch)
            self._base_errors |= dict(zip(batch["id"], errors, strict=True))
        return torch.stack([self._base_errors[key] for key in batch["id"]])

    # --- pictures ---------------------------------------------------------------------------

    def generate(
        self, prompts: list[str], config: GenerationConfig, seeds: list[int] | None = None
    ) -> list[Image.Image]:
        """Sample one picture for each prompt with the adapter as it is now.

        Without ``seeds`` the first prompt takes the configuration's seed, the next ones the next.
        """
        if seeds is None:
            seeds = list(range(config.seed, config.seed + len(prompts)))
        if self._pipeline is None:
            self._pipeline = self.base.pipeline(self.unet, self.base_dtype)
        was_training = self.unet.training
        self.unet.eval()
        try:
            return generate(self._pipeline, prompts, seeds, config, self.device)
        finally:
            self.unet.train(was_training)

    # --- checkpoints ------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the adapter alone: the base is where it came from."""
        return {f"unet.{key}": value for key, value in adapters.adapter_state(self.unet).items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load an adapter; every tensor must be there and fit."""
        state = {key.removeprefix("unet."): value for key, value in state_dict.items()}
        adapters.load_adapter_state(self.unet, state)
        return nn.modules.module._IncompatibleKeys([], [])

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a run goes on, by its key in the configuration."""
        described = adapters.describe(self.adapter)
        return {
            **{f"model.adapter.{key}": value for key, value in described.items()},
            "model.min_snr_gamma": self.min_snr_gamma,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what identifies the base and the adapter; refuse to save a broken state."""
        self._refuse_non_finite_loss()
        for key, tensor in checkpoint["state_dict"].items():
            if not torch.isfinite(tensor).all():
                raise ElfError(
                    f"{key} is not finite after step {self.global_step}; the last checkpoint is "
                    "from before. Lower the learning rate, or train in 32-true"
                )
        checkpoint["elf"] = {
            "identity": self.identity(),
            "adapter": adapters.describe(self.adapter),
            "base_sha256": self.base.fingerprint("unet"),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another configuration, naming the key and both values."""
        if checkpoint["elf"]["base_sha256"] != self.base.fingerprint("unet"):
            raise ElfError(
                f"model.base: the UNet of {self.base_name} is not the one this run was trained on; "
                "name that base, or start a new run without --ckpt_path"
            )
        saved = checkpoint["elf"]["identity"]
        for key, value in self.identity().items():
            if saved.get(key) != value:
                raise ElfError(
                    f"{key} is {value!r} here and {saved.get(key)!r} in the checkpoint; a run goes "
                    "on as it began: change it back, or start a new run without --ckpt_path"
                )

    def on_train_start(self) -> None:
        """Refuse to go on silently with another learning rate than the configuration's."""
        for group, wanted in zip(
            self.trainer.optimizers[0].param_groups, self._configured_groups, strict=True
        ):
            for key in ("initial_lr", "lr", "weight_decay", "betas", "eps"):
                if key == "lr" and "initial_lr" in wanted:
                    continue  # the schedule has moved it
                if key in wanted and group[key] != wanted[key]:
                    name = "lr" if key == "initial_lr" else key
                    raise ElfError(
                        f"model.optimizer.{name} is {wanted[key]} here and {group[key]} in the "
                        "checkpoint; change it back, or start a new run without --ckpt_path"
                    )
