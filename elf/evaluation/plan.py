"""What an evaluation generates: prompts × seeds, by the base and by adapters at strengths.

Shapes: P prompts, S seeds.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from elf.errors import ElfError
from elf.generation import GenerationConfig
from elf.preparation.trigger import has_trigger, without_trigger


@dataclass(frozen=True)
class Variant:
    """Who generates: the base, or an adapter at a strength.

    Attributes:
        name: As the report says it.
        adapter: The adapter's number; None for the base.
        strength: Factor on the adapter's update; None for the base.
    """

    name: str
    adapter: int | None = None
    strength: float | None = None

    @property
    def factor(self) -> float:
        """The strength of a variant that is an adapter's."""
        assert self.strength is not None, f"{self.name} has no adapter"
        return self.strength

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)


BASE = Variant("base")


def adapter_names(paths: Sequence[str]) -> list[str]:
    """Return a short name of each adapter: its run's or its file's, or the path if that is not one.

    A checkpoint in a run's folder is named by the run and its own name.
    """
    short = []
    for path in map(Path, paths):
        checkpoint = path.suffix == ".ckpt"
        parts = [path.parent.parent.name] if checkpoint and path.parent.name else []
        short.append("/".join([*filter(None, parts), path.stem if path.suffix else path.name]))
    counts = Counter(short)
    return [
        name if counts[name] == 1 and name != BASE.name else path
        for name, path in zip(short, paths, strict=True)
    ]


def variants(names: Sequence[str], strengths: Sequence[float]) -> list[Variant]:
    """Return the base, then each adapter at each strength, the weakest first."""
    return [BASE] + [
        Variant(f"{name} × {strength:g}", number, strength)
        for number, name in enumerate(names)
        for strength in sorted(strengths)
    ]


def checked_variants(paths: Sequence[str], strengths: Sequence[float]) -> list[Variant]:
    """Return the variants of adapters, by their paths, at strengths.

    Raises:
        ElfError: If there is none, one twice, a strength that is none, or two folders of one name.
    """
    for key, values in (("adapter", paths), ("strengths", strengths)):
        if not values:
            raise ElfError(f"model.{key} is empty; give at least one")
        if len(set(values)) != len(values):
            raise ElfError(f"model.{key} holds one twice; each is measured once")
    for strength in strengths:
        if not math.isfinite(strength) or strength == 0:
            raise ElfError(
                f"model.strengths: {strength:g} is none; 1 is the adapter as it was trained, "
                "and the base is measured anyway"
            )
    found = variants(adapter_names(paths), strengths)
    folders = [variant.folder.casefold() for variant in found]
    if len(set(folders)) != len(folders):
        raise ElfError(
            "model.adapter, model.strengths: two are so alike that their pictures would share "
            "a folder; rename one, or evaluate them one by one"
        )
    return found


def check_sampling(generation: GenerationConfig) -> None:
    """Refuse what no pipeline samples with.

    Raises:
        ElfError: With the key.
    """
    generation.check("model.generation")
    if generation.batch_size != 1:
        raise ElfError(
            "model.generation.batch_size: leave it out; data.batch_size says how many pictures are "
            "drawn at a time"
        )


class Plan:
    """Prompts × seeds, in the order in which they are generated: a prompt's seeds together.

    Args:
        prompts: What to generate.
        seeds: Seeds of each prompt; all variants share them.
        trigger: The trigger word; None if there is none.
    """

    def __init__(self, prompts: Sequence[str], seeds: Sequence[int], trigger: str | None) -> None:
        self.prompts, self.seeds = list(prompts), list(seeds)
        self.trigger = trigger
        found = [trigger is None or has_trigger(prompt, trigger) for prompt in prompts]
        self.triggered: npt.NDArray[np.bool_] = np.array(found)
        """Which prompts are to show what was learnt (P,): all, if there is no trigger."""

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Prompt and seed of each picture."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    @property
    def texts(self) -> list[str]:
        """The prompts without the trigger, which no other model knows (P)."""
        if not self.trigger:
            return self.prompts
        return [without_trigger(prompt, self.trigger) for prompt in self.prompts]
