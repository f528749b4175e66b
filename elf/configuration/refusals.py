"""What Lightning takes, or fails at in the middle, and Elf refuses before anything is made."""

import difflib
import inspect
from collections.abc import Iterable
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer

from elf.configuration.config_errors import place_of
from elf.errors import ElfError


def refuse_null_trainer(trainer: Namespace | None, files: Iterable[str]) -> None:
    """Refuse ``trainer:`` with nothing under it, for which no option would have its default.

    An option besides, ``--trainer.max_steps 5``, can make it a mapping of this one key.

    Raises:
        ElfError: With where it stands in the configuration files.
    """
    if trainer is None or any(
        name not in trainer for name in inspect.signature(Trainer).parameters
    ):
        raise ElfError(
            f"trainer: expected a mapping, got null{place_of('trainer', files)}; leave it out"
        )


LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "devices": 1,
    "num_nodes": 1,
    "max_epochs": -1,
    "max_steps": -1,
    "val_check_interval": 1,
}
"""The least that a count of the trainer may be; of epochs and steps, -1 is no limit."""


def refuse_senseless_values(trainer: Namespace) -> None:
    """Refuse values of the trainer that Lightning divides by, or answers with no key.

    Raises:
        ElfError: With the first such key.
    """
    from lightning.pytorch.accelerators import AcceleratorRegistry
    from lightning.pytorch.strategies import StrategyRegistry

    for key, least in LEAST.items():
        value = trainer.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            if key != "devices" or value != -1:  # all that there are
                raise ElfError(f"trainer.{key} {value} is too small: at least {least}")
    if isinstance(share := trainer.val_check_interval, float) and not 0 < share <= 1:
        raise ElfError(
            f"trainer.val_check_interval {share} is a share of an epoch: above 0 to 1; give a "
            "whole number for steps"
        )
    limit = trainer.gradient_clip_val
    if limit is not None and not limit >= 0:  # it would turn the gradients' sign
        raise ElfError(
            f"trainer.gradient_clip_val {limit} must be above 0; null or 0 clips nothing"
        )
    known = {
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
        "gradient_clip_algorithm": ["norm", "value"],
        "profiler": ["simple", "advanced", "pytorch", "xla"],
    }
    for key, names in known.items():
        value = trainer.get(key)
        if isinstance(value, str) and value.lower() not in names:
            near = difflib.get_close_matches(value, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise ElfError(f"trainer.{key}: no {value!r}; {hint}")


def refuse_absent_gpu(accelerator: str) -> None:
    """Refuse a GPU where torch has none.

    Raises:
        ElfError: With what says why there is none.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = any(there.values())
    if not there.get(accelerator, True):
        raise ElfError(
            f"trainer.accelerator: {accelerator!r} needs a GPU and torch finds none; `elf doctor` "
            "says why, --trainer.accelerator cpu goes without one"
        )


def refuse_half_precision_on_cpu(precision: str, accelerator: str) -> None:
    """Refuse fp16 where Lightning would silently train in bf16 instead.

    Raises:
        ElfError: If the precision is 16-bit floating point and the trainer would use a CPU.
    """
    import torch

    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if precision.startswith("16") and on_cpu:
        raise ElfError(
            f"trainer.precision: {precision!r} needs a GPU and there is none in use; "
            "on a CPU take --trainer.precision 32-true"
        )


STEPS = {
    "fit": ("training_step", "trains", "configs/train"),
    "validate": ("validation_step", "has a validation loss", "the run's config.yaml"),
    "test": ("test_step", "evaluates", "configs/eval"),
    "predict": ("predict_step", "labels or answers", "configs/tag or configs/predict"),
}
"""What a command calls of a model, what such a model does, and where configs of it are."""


def refuse_other_model(command: str, model: LightningModule) -> None:
    """Refuse a config of another command.

    Raises:
        ElfError: If the model has no step of this one.
    """
    step, does, configs = STEPS[command]
    if getattr(type(model), step) is getattr(LightningModule, step, None):
        raise ElfError(
            f"model.class_path: {type(model).__name__} is not for `elf {command}`, which takes a "
            f"model that {does}; is it another command's config? take one of {configs}"
        )


def refuse_used_folder(folder: Path) -> None:
    """Refuse to start a new run over the checkpoints of another.

    Raises:
        ElfError: If the folder holds checkpoints.
    """
    if any((folder / "checkpoints").glob("*.ckpt")):
        raise ElfError(
            f"trainer.default_root_dir: {folder} holds a run already; go on with it by "
            "--ckpt_path last, or choose another folder by --trainer.default_root_dir"
        )
