"""Pictures during training: the same prompts and seeds, from step 0 on."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from elf.errors import ElfError
from elf.files import atomic_path
from elf.generation import GenerationConfig, grid


class SamplePictures(Callback):
    """Writes ``samples/step-NNNNNN.png`` into the run's folder and shows it in the logger.

    Args:
        prompts: One picture each; the trigger should be in some of them.
        every_n_steps: Optimizer steps between two sheets; the first is at step 0.
        generation: Seed, steps, guidance, size.
    """

    def __init__(
        self,
        prompts: list[str],
        every_n_steps: int = 250,
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (a constant to jsonargparse)
    ) -> None:
        if not prompts:
            raise ElfError("SamplePictures.prompts is empty; give a prompt, or drop the callback")
        if every_n_steps < 1:
            raise ElfError(f"SamplePictures.every_n_steps is {every_n_steps}; take 1 or more")
        self.prompts = prompts
        self.every_n_steps = every_n_steps
        self.generation = generation
        self._sampled = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the base makes of the prompts, unless the run goes on."""
        self._sampled = trainer.global_step
        if trainer.global_step == 0:
            self._sample(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Sample after every ``every_n_steps``-th optimizer step."""
        step = trainer.global_step  # the same for all batches that one step accumulates
        if step != self._sampled and step % self.every_n_steps == 0:
            self._sampled = step
            self._sample(trainer, pl_module)

    def _sample(self, trainer: Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        pictures = module.generate(self.prompts, self.generation)
        sheet = grid(pictures, columns=min(len(pictures), 4))
        name = f"step-{trainer.global_step:06d}"
        path = Path(trainer.default_root_dir) / "samples" / f"{name}.png"
        with atomic_path(path) as temporary:
            sheet.save(temporary, format="PNG")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                pixels = np.asarray(sheet)
                logger.experiment.add_image(
                    "samples", pixels, trainer.global_step, dataformats="HWC"
                )
            elif isinstance(logger, WandbLogger):
                logger.log_image("samples", [sheet], step=trainer.global_step)
