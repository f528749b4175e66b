"""When the same prompts are sampled in a training, whatever is made of them."""

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.errors import ElfError

NAME = "samples"


class Sampling(Callback):
    """Samples after every so many optimizer steps.

    Args:
        prompts: How many prompts there are.
        every_n_steps: Optimizer steps between two rounds.
        strengths: Factors of the adapter's update, a sample of each prompt each.

    Raises:
        ElfError: If one of them is empty or none.
    """

    def __init__(self, prompts: int, every_n_steps: int, strengths: list[float]) -> None:
        name = type(self).__name__
        if not prompts:
            raise ElfError(f"{name}.prompts is empty; give a prompt, or drop the callback")
        if every_n_steps < 1:
            raise ElfError(f"{name}.every_n_steps is {every_n_steps}; take 1 or more")
        if not strengths:
            raise ElfError(f"{name}.strengths is empty; give [1.0], or leave it out")
        self.every_n_steps, self.strengths = every_n_steps, strengths
        self._sampled = 0

    @abstractmethod
    def _sample(self, trainer: Trainer, module: Any) -> None:
        """Sample and show what comes of it."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Sample after every ``every_n_steps``-th optimizer step."""
        step = trainer.global_step  # the same for all batches that one step accumulates
        if step != self._sampled and step % self.every_n_steps == 0:
            self._sampled = step
            self._sample(trainer, pl_module)
