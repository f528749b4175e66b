"""The file that others load, where it is looked for: in the run's folder, and in W&B's store."""

import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from elf.errors import ElfError
from elf.export.diffusers_form import write_diffusers
from elf.export.peft_form import export_peft
from elf.export.trained import read_trained
from elf.watching import log_artifact, takes_artifacts

FOLDER = "adapter"


class AdapterFile(Callback):
    """Exports the adapter at the end of a run into ``adapter/``, as `elf export` does.

    A logger that keeps files gets it as an artifact ``adapter``, and so each checkpoint that is
    kept, once it is written.
    """

    def __init__(self) -> None:
        self._given: set[str] = set()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Give away the checkpoints that were written after the step before."""
        self._give(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the last checkpoint."""
        if not trainer.is_global_zero:
            return
        last = _last(trainer)
        if last is None:
            return
        self._give(trainer, last=last)
        try:
            path = _exported(last, Path(trainer.default_root_dir) / FOLDER, pl_module)
        except ElfError as error:  # it changes nothing, or overflows: the run is no worse for it
            print(f"elf: no adapter file was written: {error}")
            return
        log_artifact(trainer, "adapter", path, trainer.global_step, ["final"])

    def _give(self, trainer: Trainer, last: Path | None = None) -> None:
        """Give away kept checkpoints that were not given before; the last is given as ``final``."""
        if not (trainer.is_global_zero and takes_artifacts(trainer)):
            return
        kept = {
            path
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint)
            for path in callback.best_k_models
        }
        for name in sorted(kept - self._given):
            path = Path(name)
            step = _step_of(path)
            if last is not None and step == trainer.global_step:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    exported = _exported(path, Path(folder), trainer.lightning_module)
                except ElfError:
                    continue  # said at the end, if it still changes nothing then
                log_artifact(trainer, "adapter", exported, step, ["checkpoint"])
        self._given |= kept


def _last(trainer: Trainer) -> Path | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.last_model_path:
            return Path(callback.last_model_path)
    return None


def _step_of(path: Path) -> int:
    """Return the step in a checkpoint's name; 0 if it has none."""
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _exported(checkpoint: Path, folder: Path, module: Any) -> Path:
    """Write what others load, and return it: a file, or of a language model the folder."""
    trained = read_trained(checkpoint)
    if not trained.of_language:
        return write_diffusers(trained, folder)
    (written,) = export_peft(trained, folder, "float16", getattr(module, "base_name", None))
    return written
