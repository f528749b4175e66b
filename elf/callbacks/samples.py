"""Pictures during training: the same prompts and seeds, from step 0 on."""

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from elf.adapters import at_strength
from elf.callbacks.checkpoint import AdapterCheckpoint
from elf.callbacks.randomness import unchanged_generators
from elf.callbacks.sampling import NAME, Sampling
from elf.errors import ElfWarning
from elf.generation import GenerationConfig, SamplingStopped
from elf.memory import is_out_of_memory
from elf.watching import Picture, log_picture, log_table
from elf.watching.sheet import Line, contact_sheet

COLUMNS = ("prompt", "negative_prompt", "seed", "strength", "picture")


@dataclass
class SamplePrompt:
    """A prompt with options of its own; what is left out is ``generation``'s.

    Attributes:
        prompt: What is asked for.
        negative_prompt: What to steer away from.
        seed: Seed of the starting noise.
        guidance: Classifier-free guidance scale.
        width: Width in px.
        height: Height in px.
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None

    def options(self, generation: GenerationConfig, place: int) -> GenerationConfig:
        """Return how this prompt, so many after the first, is sampled."""
        own = ("negative_prompt", "guidance", "width", "height")
        given = {key: value for key in own if (value := getattr(self, key)) is not None}
        seed = generation.seed + place if self.seed is None else self.seed
        return replace(generation, **given, seed=seed)


class SamplePictures(Sampling):
    """Writes ``samples/step-NNNNNN.png``, each picture beside it, and shows both in the loggers.

    Training does not notice: generators, training mode, places and strength are as they were. A
    sheet for which memory does not suffice is left out, with a warning.

    Args:
        prompts: One picture each; the trigger should be in some of them. A prompt may have a
            negative prompt, seed, guidance and size of its own.
        every_n_steps: Optimizer steps between two sheets; the first is at step 0.
        generation: Seed, steps, guidance, negative prompt, size.
        strengths: Factors of the adapter's update, a column each; 0 is the base itself.
    """

    def __init__(
        self,
        prompts: list[str | SamplePrompt],
        every_n_steps: int = 250,
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (a constant to jsonargparse)
        strengths: list[float] = [1.0],  # noqa: B006 (read only)
    ) -> None:
        super().__init__(len(prompts), every_n_steps, strengths)
        generation.check("SamplePictures.generation")
        self.prompts = [
            each if isinstance(each, SamplePrompt) else SamplePrompt(each) for each in prompts
        ]
        for number, each in enumerate(self.prompts):
            each.options(generation, number).check(f"SamplePictures.prompts[{number}]")
        self.generation = generation
        self._short = False  # of memory, as long as the step's graphs keep theirs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the base makes of the prompts; of a run that goes on, what it shows already."""
        step = self._sampled = trainer.global_step
        path = Path(trainer.default_root_dir) / NAME / f"step-{step:06d}.png"
        due = step % self.every_n_steps == 0
        if due and not (step and path.is_file()):  # also what a signal kept from being finished
            self._sample(trainer, pl_module)
        elif trainer.is_global_zero:
            self._remember(pl_module)
            if due:
                with Image.open(path) as sheet:
                    log_picture(trainer, NAME, sheet, step, again=True)

    def _remember(self, module: Any) -> None:
        """Have the prompts encoded before the first step is captured, as sampling would at step 0.

        Later the text encoders may not fit beside what training has taken.
        """
        try:
            for group in self._groups():
                module.remember_prompts([prompt.prompt for prompt, _ in group], group[0][1])
        except Exception as error:  # then there is none to sample either, which that will tell
            if not is_out_of_memory(error):
                raise

    def _sample(self, trainer: Trainer, module: LightningModule) -> None:
        # The others go on to their next step, and wait for the first process there.
        if not trainer.is_global_zero:
            return
        pictures = self._pictures(trainer, module)
        if pictures is not None:
            self._show(trainer, pictures)

    def _pictures(
        self, trainer: Trainer, module: LightningModule
    ) -> list[list[Image.Image]] | None:
        """Return pictures by prompt and strength; None if memory or time did not suffice."""
        release = getattr(module, "release_graphs", lambda: False)
        if self._short:  # it would be found out in the middle of a picture
            self._free(release)
        again = True
        while again:
            try:
                with unchanged_generators():
                    columns = [self._column(trainer, module, each) for each in self.strengths]
                return [list(row) for row in zip(*columns, strict=True)]
            except SamplingStopped:
                return None
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Here the error is gone, and with its traceback all tensors that the frames held.
            again = self._free(release)
            self._short |= again
        warnings.warn(
            f"no memory for the sample pictures of step {trainer.global_step}: they are left out; "
            "lower SamplePictures.generation.width, height or batch_size",
            ElfWarning,
            stacklevel=2,
        )
        return None

    @staticmethod
    def _free(release: Callable[[], bool]) -> bool:
        """Give up the graphs' memory, and all that is unused; return whether there was a graph."""
        released = release()  # the next steps capture theirs anew, in a second each
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return released

    def _column(self, trainer: Trainer, module: Any, strength: float) -> list[Image.Image]:
        def stop() -> bool:
            # at step 0 the signals are Lightning's yet
            return trainer.received_sigterm or any(
                isinstance(callback, AdapterCheckpoint) and callback.stopping
                for callback in trainer.checkpoint_callbacks
            )

        pictures: list[Image.Image] = []
        with at_strength([module], strength):
            for group in self._groups():
                texts = [prompt.prompt for prompt, _ in group]
                seeds = [options.seed for _, options in group]
                pictures += module.generate(texts, group[0][1], seeds, stop=stop)
        return pictures

    def _groups(self) -> list[list[tuple[SamplePrompt, GenerationConfig]]]:
        """Return the prompts with their options, those that can be sampled together together."""
        groups: list[list[tuple[SamplePrompt, GenerationConfig]]] = []
        for place, prompt in enumerate(self.prompts):
            options = prompt.options(self.generation, place)
            if groups and replace(options, seed=0) == replace(groups[-1][0][1], seed=0):
                groups[-1].append((prompt, options))
            else:
                groups.append([(prompt, options)])
        return groups

    def _show(self, trainer: Trainer, pictures: Sequence[Sequence[Image.Image]]) -> None:
        step = trainer.global_step
        lines, rows = [], []
        for place, (prompt, images) in enumerate(zip(self.prompts, pictures, strict=True)):
            options = prompt.options(self.generation, place)
            note = f"seed {options.seed}"
            note += f" · not: {options.negative_prompt}" if options.negative_prompt else ""
            lines.append(Line(prompt.prompt, note, images))
            for strength, image in zip(self.strengths, images, strict=True):
                texts = {
                    "prompt": prompt.prompt,
                    "negative_prompt": options.negative_prompt,
                    "seed": str(options.seed),
                    "strength": f"{strength:g}",
                    "step": str(step),
                }
                file = f"{NAME}/step-{step:06d}/{place:02d}-strength-{strength:g}.png"
                cells = (prompt.prompt, options.negative_prompt, options.seed, strength)
                rows.append([*cells, Picture(image, file, texts)])
        heads = ["base" if each == 0 else f"strength {each:g}" for each in self.strengths]
        title = Path(trainer.default_root_dir).absolute().name
        sheet = contact_sheet(lines, heads, title, f"step {step:,}")
        log_picture(trainer, NAME, sheet, step)
        log_table(trainer, NAME, COLUMNS, rows, step)
