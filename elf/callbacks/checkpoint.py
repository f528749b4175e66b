"""When checkpoints are written: at optimizer steps, the newest always under ``last.ckpt``."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from elf.errors import ElfError


class AdapterCheckpoint(ModelCheckpoint):
    """Writes ``checkpoints/step-NNNNNN.ckpt`` and ``last.ckpt`` into the run's folder.

    A checkpoint holds the adapter, the optimizer and what an exact continuation needs; not the
    base.

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the checkpoints into the run's folder."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save every ``every_n_steps``-th step, and the last one whatever its number.

        Not in ``on_train_end``: the loops have counted the epoch as done by then, and a run that
        goes on would take a part of an epoch for a whole one.
        """
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        done = trainer.global_step == trainer.max_steps or (
            trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        )
        if done and self._last_global_step_saved != trainer.global_step:
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
