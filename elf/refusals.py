"""What Lightning takes, or fails at in the middle, and Elf refuses before anything is made."""

import inspect
from collections.abc import Iterable
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from elf.config_errors import place_of
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


def refuse_negative_clip(limit: float | None) -> None:
    """Refuse a limit on gradients that would turn their sign.

    Raises:
        ElfError: If the limit is below 0, or not a number.
    """
    if limit is not None and not limit >= 0:
        raise ElfError(
            f"trainer.gradient_clip_val {limit} must be above 0; null or 0 clips nothing"
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
