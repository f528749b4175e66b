"""A Lightning module that trains an adapter on a frozen base, whatever the base makes."""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer

from elf import adapters
from elf.adapters import AdapterConfig, Injected
from elf.errors import ElfError
from elf.modules.stepped import SteppedModule
from elf.training import optimization, schedules
from elf.training.adapted import AdaptedNetworks
from elf.training.averaging import EMAConfig, EvaluatedWeights, MovingAverage, is_schedule_free
from elf.training.beginning import begin
from elf.training.building import adapter_optimizer
from elf.training.checkpoints import evaluated_state, last_good
from elf.training.compiling import uncompiled
from elf.training.identity import flatten, refuse_other_run, warn_of_precision
from elf.training.optimization import LearningRates, OptimizerFactory
from elf.training.schedules import ScheduleConfig


class AdapterModule(SteppedModule):
    """Optimizer, schedule, averages and checkpoints of an adapter in training.

    Args:
        adapter: What is trained.
        optimizer: Optimizer, given the adapter's parameters.
        learning_rates: Those of parts, where they differ from the optimizer's.
        schedule: How the learning rate changes over the run.
        lr_scheduler: A schedule of torch's instead, advanced once an optimizer step.
        ema: A moving average of the adapter, which is evaluated and exported; None for none.

    Attributes:
        base_name: What the user calls the base.
        network_title: What its network is called in messages.
        base_options: What of it the user chose otherwise than it is.
        injected: What is trained of each network, once there are networks.
    """

    base_name: str
    network_title: str
    base_options: dict[str, Any]
    injected: Mapping[str, Injected]
    weights: EvaluatedWeights

    def __init__(
        self,
        adapter: AdapterConfig,
        optimizer: OptimizerFactory,
        learning_rates: LearningRates,
        schedule: ScheduleConfig,
        lr_scheduler: LRSchedulerCallable | None,
        ema: EMAConfig | None,
    ) -> None:
        super().__init__()
        adapters.validate(adapter)  # refuses what makes no sense before anything is loaded
        if lr_scheduler is not None and schedule != ScheduleConfig():
            raise ElfError("model.schedule and model.lr_scheduler: give one of the two")
        self.adapter = adapter
        self.optimizer, self.learning_rates = optimizer, learning_rates
        self.schedule, self.lr_scheduler, self.ema = schedule, lr_scheduler, ema
        self.average: MovingAverage | None = None
        self._configured: list[dict[str, Any]] = []
        self._made, self._saved_identity = dict[str, Any](), dict[str, Any]()
        self._validating = ExitStack()

    @property
    @abstractmethod
    def networks(self) -> AdaptedNetworks:
        """The networks, the adapter in them."""

    @property
    @abstractmethod
    def base_sha256(self) -> str:
        """The hash of the network that the adapter is of."""

    @abstractmethod
    def chosen(self) -> dict[str, Any]:
        """Return what else must not change when a run goes on, by its key under ``model``."""

    def watch_weights(self) -> None:
        """Begin to average the adapter, now that it is there."""
        if self.ema is not None:
            self.average = MovingAverage(self.ema, self.networks.trained)
        self.weights = EvaluatedWeights(self.networks.trained, self.average, self._optimizers)

    # --- the optimizer ----------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Give the optimizer the adapter's parameters alone, in groups by their part."""
        optimizer = adapter_optimizer(
            self.networks, self.injected, self.optimizer, self.learning_rates
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

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the adapter's parameters."""
        return self.networks.trained_parameters()

    def parameters_changed(self) -> None:
        """Compute DoRA's norms again, if they are others now."""
        if self.adapter.kind == "dora":  # else to look for them would cost each step a millisecond
            self.networks.refresh_norms()

    def on_validation_start(self) -> None:
        """Put the averaged weights in place."""
        self._validating.enter_context(uncompiled())
        self._validating.enter_context(self.weights.in_place())

    def on_validation_end(self) -> None:
        """Put the weights in training back."""
        self._validating.close()

    # --- checkpoints ------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the adapter alone, as it is in training: the base is where it came from."""
        return self.weights.trained()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load an adapter; every tensor must be there and fit."""
        self.networks.load_trained(state_dict)
        return nn.modules.module._IncompatibleKeys([], [])

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a run goes on, by its key in the configuration."""
        described = {
            "adapter": adapters.describe(self.adapter),
            "learning_rates": self.learning_rates,
            "schedule": self.schedule,
            **self.chosen(),
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
            "base_sha256": self.base_sha256,
            "base_options": self.base_options,
            "precision": self.run_precision,
        }
        if (evaluated := self.weights.evaluated()) is not None:
            checkpoint["elf"]["averaged"] = evaluated

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another configuration, naming the key and both values."""
        if checkpoint["elf"]["base_sha256"] != self.base_sha256:
            raise ElfError(
                f"model.base: {self.network_title} of {self.base_name} is not the one this run was "
                "trained on; name that base, or start a new run without --ckpt_path"
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
            print(*(record.summary_lines()[0] for record in self.injected.values()), sep="\n")
        for optimizer in self.trainer.optimizers:
            optimization.refuse_others(optimizer, self._configured)
            if is_schedule_free(optimizer):
                optimizer.train()  # type: ignore[attr-defined]
