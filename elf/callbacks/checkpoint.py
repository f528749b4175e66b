"""When checkpoints are written: at optimizer steps, the newest always under ``last.ckpt``."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from elf.callbacks.termination import Termination
from elf.errors import ElfError


class AdapterCheckpoint(ModelCheckpoint):
    """Writes ``checkpoints/step-NNNNNN.ckpt`` and ``last.ckpt`` into the run's folder.

    A checkpoint holds the adapter, the optimizer and what an exact continuation needs; not the
    base. SIGTERM and Ctrl-C end the run after the next optimizer step, with a checkpoint of it.

    Args:
        every_n_steps: Optimizer steps between two checkpoints.
        keep: How many of the numbered ones to keep, the newest; -1 keeps all.
    """

    def __init__(self, every_n_steps: int = 500, keep: int = 3) -> None:
        if every_n_steps < 1:
            raise ElfError(f"AdapterCheckpoint.every_n_steps is {every_n_steps}; take 1 or more")
        if keep == 0 or keep < -1:
            raise ElfError(f"AdapterCheckpoint.keep is {keep}; take 1 or more, or -1 for all")
        super().__init__(
            filename="step-{step:06d}",
            monitor="step",
            mode="max",
            save_top_k=keep,
            save_last=True,
            every_n_train_steps=every_n_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self._termination = Termination()
        self._step = 0
        self._ends_behind_validation = False

    @property
    def state_key(self) -> str:
        """The same whatever the arguments: a run may go on with others."""
        return type(self).__qualname__

    @property
    def stopping(self) -> bool:
        """Whether this process was told to end, and will after its step."""
        return self._termination.received

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the checkpoints into the run's folder; what a kill left half written goes."""
        folder = Path(trainer.default_root_dir) / "checkpoints"
        self.dirpath = str(folder)
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            for half in folder.glob(".*.ckpt.*.tmp"):
                half.unlink(missing_ok=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was kept, if it is in this run's folder and not in another's."""
        if state_dict.get("dirpath") == self.dirpath:
            super().load_state_dict(state_dict)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every ``every_n_steps``-th step, and the last one whatever its number.

        Where the step ends, and nowhere later. Lightning's own callback puts a checkpoint off that
        falls on the end of an epoch: written within the next accumulation, it lacks a batch's
        gradient. And in ``on_train_end`` the loops have counted the epoch as done: a run that goes
        on would take a part of an epoch for a whole one.
        """
        if trainer.global_step == self._step:
            return  # within an accumulation
        self._step = trainer.global_step
        stopped = self._termination.requested(trainer)
        done = trainer.global_step == trainer.max_steps or (
            trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        )
        if done or stopped or trainer.global_step % self._every_n_train_steps == 0:
            # Lightning logs after this hook: a run that ends here would lack the step's row.
            trainer._logger_connector.update_train_step_metrics()
            self._save_now(trainer)
        if stopped and not done:
            if _validates_next(trainer):
                self._ends_behind_validation = True
            else:
                self._termination.end(trainer.global_step)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Save here too: validation may take longer than what is left after a signal.

        In one process alone, as others may not validate as many batches. The run ends behind the
        validation: one that goes on takes it for done, and would log nothing of it.
        """
        within_fit = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if within_fit and trainer.world_size == 1 and self._termination.requested(trainer):
            self._save_now(trainer)
            self._ends_behind_validation = True

    def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """End a run that was told to while it validated; what was found is logged by now."""
        if self._ends_behind_validation:
            self._termination.end(trainer.global_step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which has set its own handlers by now."""
        super().on_train_start(trainer, pl_module)
        self._step, self._ends_behind_validation = trainer.global_step, False
        self._termination.install()
        loop = trainer.fit_loop
        progress = loop.epoch_progress.total
        if loop.restarted_mid_epoch and progress.completed == progress.ready:
            # The checkpoint was of an epoch's last step, so the next one begins. Lightning counts
            # the one as done but goes on as if within it: no hook, and a count that falls behind.
            loop.reset_restart_stage()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        super().on_train_end(trainer, pl_module)
        self._termination.uninstall()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        super().on_exception(trainer, pl_module, exception)
        self._termination.uninstall()

    def _save_now(self, trainer: Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step:
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)


def _validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows this step; a run that goes on from here takes it for done."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return (
        trainer.enable_validation
        and fetcher is not None
        and loop.epoch_loop._should_check_val_fx(fetcher)
    )
