"""Answers during training: the same prompts, from step 0 on."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from elf.adapters import at_strength
from elf.callbacks.randomness import unchanged_generators
from elf.callbacks.sampling import NAME, Sampling
from elf.files import write_atomic
from elf.language.generation import TextGeneration, prompt_tokens
from elf.watching import log_table

COLUMNS = ("prompt", "strength", "answer")


class SampleTexts(Sampling):
    """Writes ``samples/step-NNNNNN.md`` and shows the same table in the loggers.

    Training does not notice: generators, training mode and strength are as they were.

    Args:
        prompts: What is asked; without a chat template, what is continued.
        every_n_steps: Optimizer steps between two rounds; the first is at step 0.
        generation: How the answers are made.
        strengths: Factors of the adapter's update, an answer each; 0 is the base itself.
    """

    def __init__(
        self,
        prompts: list[str],
        every_n_steps: int = 100,
        generation: TextGeneration = TextGeneration(),  # noqa: B008 (a constant to jsonargparse)
        strengths: list[float] = [1.0],  # noqa: B006 (read only)
    ) -> None:
        super().__init__(len(prompts), every_n_steps, strengths)
        self.prompts, self.generation = prompts, generation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the base answers; of a run that goes on, what it shows already."""
        step = self._sampled = trainer.global_step
        if step % self.every_n_steps == 0 and not (step and self._path(trainer, step).is_file()):
            self._sample(trainer, pl_module)

    @staticmethod
    def _path(trainer: Trainer, step: int) -> Path:
        return Path(trainer.default_root_dir) / NAME / f"step-{step:06d}.md"

    def _sample(self, trainer: Trainer, module: Any) -> None:
        # The others go on to their next step, and wait for the first process there.
        if not trainer.is_global_zero:
            return
        tokenizer = module.language.tokenizer
        prompts = [prompt_tokens(tokenizer, prompt) for prompt in self.prompts]
        columns = []
        with unchanged_generators():
            for strength in self.strengths:
                with at_strength([module], strength):
                    found = module.complete(prompts, self.generation)
                columns.append([tokenizer.decode(each) for each in found])
        step = trainer.global_step
        rows = [
            [prompt, strength, answer]
            for prompt, answers in zip(self.prompts, zip(*columns, strict=True), strict=True)
            for strength, answer in zip(self.strengths, answers, strict=True)
        ]
        lines = [f"# {Path(trainer.default_root_dir).absolute().name}, step {step:,}", ""]
        for prompt, strength, answer in rows:
            who = "base" if strength == 0 else f"strength {strength:g}"
            lines += [f"**{prompt}**", "", f"{who}: {answer}", ""]
        write_atomic(self._path(trainer, step), "\n".join(lines))
        log_table(trainer, NAME, COLUMNS, rows, step)
