"""A Lightning module whose forward, backward and optimizer step are Elf's own, to be captured."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from elf.stepping import Stepper
from elf.stepping.static import Batch, mapped
from elf.stepping.update import why_not
from elf.training import optimization
from elf.training.checkpoints import last_good
from elf.training.losscheck import LossCheck

STRATEGIES = (SingleDeviceStrategy, DDPStrategy)
PRECISIONS = (Precision, MixedPrecision)


class SteppedModule(LightningModule):
    """Runs its steps through a `Stepper` where it can, and as Lightning does elsewhere.

    Lightning still decides when there is a step, and calls all hooks of callbacks; but within
    ``training_step`` the backward pass is done, too. DDP's wrapper is taken off: the gradients lie
    in one buffer, which is averaged before the optimizer's step.

    Attributes:
        cuda_graphs: Whether steps on a GPU are captured as CUDA graphs.
        samples: What a batch is of, in messages.
        stepper: While training: the steps; None where a strategy shards what is trained.
    """

    cuda_graphs: bool = True
    samples: ClassVar[str] = "pictures"

    def __init__(self) -> None:
        super().__init__()
        self.stepper: Stepper | None = None
        self._losses = LossCheck(lambda: last_good(self.trainer.default_root_dir), self.samples)

    @abstractmethod
    def training_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each sample's error (B,), as it is and as it counts."""

    @abstractmethod
    def trained_parameters(self) -> Sequence[nn.Parameter]:
        """Return what is trained, on its device."""

    def parameters_changed(self) -> None:
        """Bring up to date what depends on the parameters, which others than the optimizer set."""

    def trainer_identity(self) -> dict[str, Any]:
        """Return what of the trainer must not change when a run goes on, by its key."""
        if self._trainer is None or self._trainer.state.fn != TrainerFn.FITTING:
            return {}
        trainer = self._trainer
        algorithm = trainer.gradient_clip_algorithm  # an enumeration, which no checkpoint may hold
        return {
            "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
            "trainer.gradient_clip_val": trainer.gradient_clip_val,
            "trainer.gradient_clip_algorithm": None if algorithm is None else str(algorithm.value),
        }

    @property
    def run_precision(self) -> str:
        """The trainer's precision; ``32-true`` without one."""
        return str(self._trainer.precision if self._trainer else "32-true")

    # --- making the stepper -----------------------------------------------------------------

    def on_train_start(self) -> None:
        """Make the stepper; what a checkpoint had is loaded by now."""
        strategy, precision = self.trainer.strategy, self.trainer.precision_plugin
        if type(strategy) not in STRATEGIES or type(precision) not in PRECISIONS:
            return
        # DDP has given all processes the same parameters. What it keeps to watch their gradients
        # belongs to another stream than the captured one, so it goes.
        strategy.model = self
        optimizer = self.trainer.optimizers[0]
        graphs = self.cuda_graphs and self.device.type == "cuda"
        if graphs and self.trainer.is_global_zero and (reason := why_not(optimizer)):
            print(f"CUDA graphs hold the forward and backward pass, not the optimizer: {reason}")
        self.stepper = Stepper(
            self.training_errors,
            self.trained_parameters(),
            optimizer,
            accumulation=self.trainer.accumulate_grad_batches,
            processes=self.trainer.world_size,
            limit=self.trainer.gradient_clip_val,
            algorithm=self.trainer.gradient_clip_algorithm,
            scaler=self._scaler,
            graphs=graphs,
            changed=self.parameters_changed,
        )

    def on_train_end(self) -> None:
        """Look at the last losses, and give up the graphs and their memory."""
        self._losses.check()
        self.release_graphs()

    def release_graphs(self) -> bool:
        """Give up the memory of captured passes until the next step; whether there was any."""
        return self.stepper is not None and self.stepper.passes.release()

    @property
    def _scaler(self) -> Any:
        """The loss scaler of fp16 training, which leaves out steps with gradients not finite."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    @property
    def _logs_steps(self) -> bool:
        """Whether Lightning is to log a step's figures; it waits for the device to do so."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return not any(getattr(each, "logs_steps", False) for each in callbacks)

    # --- the step ---------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Pin a batch: else its way to the GPU waits for the steps before it."""
        if self.device.type != "cuda" or not isinstance(batch, dict):
            return batch
        return mapped(batch, lambda tensor: tensor.pin_memory() if tensor.is_cpu else tensor)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return the mean of the batch's weighted errors, and each sample's own.

        Returns:
            ``loss``; ``errors`` (B,), unweighted, with ``id`` and, of pictures, ``timesteps`` (B,).
        """
        if self.stepper is not None:
            step = self.stepper(batch)
            loss, errors = step.loss.clone(), step.errors
        else:
            errors, weighted = self.training_errors(batch)
            loss = weighted.mean()
        shared = loss.detach()
        if self.trainer.world_size > 1:
            shared = self.trainer.strategy.reduce(shared.clone(), reduce_op="mean")
        self._losses.add(loss.detach(), shared, self.global_step, batch["id"])
        self._losses.check(wait=False)
        # Lightning looks at what is for a bar after each batch, and so waits for the device
        bar = self.trainer.progress_bar_callback
        told = bar is not None and not getattr(bar, "looks_itself", False)
        self.log("train/loss", shared, told, self._logs_steps, batch_size=len(errors))
        result = {"loss": loss, "errors": errors.detach(), "id": batch["id"]}
        return result | ({"timesteps": batch["timesteps"]} if "timesteps" in batch else {})

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Do nothing where the stepper has done it."""
        if self.stepper is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Do nothing where the stepper has done it."""
        if self.stepper is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients: a validation may come within an accumulation, of which it is no part."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Take a step, with the hooks that Lightning calls."""
        if self.stepper is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return
        optimizer_closure()
        call._call_callback_hooks(self.trainer, "on_before_optimizer_step", optimizer)
        call._call_lightning_module_hook(self.trainer, "on_before_optimizer_step", optimizer)
        self.log("train/grad_norm", self.stepper.step(), logger=self._logs_steps)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip without the stepper, and log the norm from before.

        Lightning refuses this to fused optimizers, which unscale fp16 gradients within their step;
        unscaled here, they take them as they are.
        """
        scaler = self._scaler
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        norm = optimization.clip_gradients(trained, gradient_clip_val, gradient_clip_algorithm)
        self.log("train/grad_norm", norm, logger=self._logs_steps)
