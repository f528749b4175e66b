"""Keeps the checkpoints with the best validation loss."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from elf.errors import ElfError


class BestCheckpoint(Callback):
    """Writes ``checkpoints/best-NNNNNN.ckpt`` after a validation that is among the best so far.

    The validation loss compares settings and steps; which step's pictures are best it does not say.

    Args:
        keep: How many to keep.
        monitor: What is to be as low as can be: ``val/loss`` or another metric of validation.
    """

    def __init__(self, keep: int = 1, monitor: str = "val/loss") -> None:
        if keep < 1:
            raise ElfError(f"BestCheckpoint.keep is {keep}; take 1 or more")
        self.keep = keep
        self.monitor = monitor
        self._kept: dict[str, float] = {}  # file name → value

    @property
    def state_key(self) -> str:
        """The same whatever the arguments: a run may go on with others."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Return which are kept, and their values."""
        return {"kept": dict(self._kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with those that were kept."""
        self._kept = dict(state_dict["kept"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what is not in this run's folder: a run may go on from another's checkpoint."""
        folder = Path(trainer.default_root_dir) / "checkpoints"
        self._kept = {name: v for name, v in self._kept.items() if (folder / name).is_file()}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if this validation is among the best, and remove the one it beats.

        Raises:
            ElfError: If there is no such metric.
        """
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            if not any(key.startswith("val") for key in metrics):
                return  # nothing is held out
            raise ElfError(
                f"BestCheckpoint.monitor: no metric {self.monitor!r}; there are "
                f"{', '.join(sorted(key for key in metrics if key.startswith('val')))}"
            )
        value = float(metrics[self.monitor])
        if not math.isfinite(value) or trainer.global_step == 0:
            return
        name = f"best-{trainer.global_step:06d}.ckpt"
        ranked = sorted({**self._kept, name: value}.items(), key=lambda each: each[1])
        if name not in dict(ranked[: self.keep]):
            return
        self._kept = dict(ranked[: self.keep])
        folder = Path(trainer.default_root_dir) / "checkpoints"
        trainer.save_checkpoint(folder / name, weights_only=False)  # or Lightning says so
        for beaten, _ in ranked[self.keep :]:
            trainer.strategy.remove_checkpoint(folder / beaten)
