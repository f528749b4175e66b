"""What is asked for, within limits, and how it is written into a picture."""

import math
import random
import re
from dataclasses import dataclass, replace

from elf.errors import ElfError
from elf.preparation.trigger import has_trigger

LARGEST_SEED = 2**32 - 1
LONGEST_PROMPT = 4000
MOST_STEPS = 150


@dataclass(frozen=True)
class Limits:
    """What one picture may take.

    Attributes:
        largest_side: Of a picture, px.
        strengths: Least and largest factor on an adapter's update.
    """

    largest_side: int = 1536
    strengths: tuple[float, float] = (-1.0, 2.0)


@dataclass(frozen=True)
class Request:
    """A picture that is asked for.

    Attributes:
        prompt: What to draw.
        negative_prompt: What to steer away from.
        adapter: Its name; None is the base.
        strength: Factor on its update.
        seed: Of the noise; -1 draws one.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale.
        width: Px.
        height: Px.
        trigger: Whether the adapter's trigger is put before a prompt that lacks it.
    """

    prompt: str
    negative_prompt: str = ""
    adapter: str | None = None
    strength: float = 1.0
    seed: int = -1
    steps: int = 30
    guidance: float = 7.5
    width: int = 512
    height: int = 512
    trigger: bool = True

    def checked(self, limits: Limits) -> "Request":
        """Return it with a seed.

        Raises:
            ElfError: If a value is none, or beyond the limits, with its name.
        """
        low, high = limits.strengths
        for name, value, least, most in (
            ("steps", self.steps, 1, MOST_STEPS),
            ("width", self.width, 8, limits.largest_side),
            ("height", self.height, 8, limits.largest_side),
            ("guidance", self.guidance, 0, 50),
            ("strength", self.strength, low, high),
            ("seed", self.seed, -1, LARGEST_SEED),
        ):
            if not (math.isfinite(value) and least <= value <= most):
                raise ElfError(f"{name} {value} is not within {least} to {most}")
        for name, side in (("width", self.width), ("height", self.height)):
            if side % 8:
                raise ElfError(f"{name} {side} is no multiple of 8")
        for name, text in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt)):
            if len(text) > LONGEST_PROMPT:
                raise ElfError(f"{name} has {len(text)} characters, of {LONGEST_PROMPT} at most")
        seed = random.randint(0, LARGEST_SEED) if self.seed < 0 else self.seed
        return replace(self, seed=seed)

    def with_trigger(self, trigger: str | None) -> str:
        """Return the prompt as it is drawn."""
        if not self.trigger or trigger is None or has_trigger(self.prompt, trigger):
            return self.prompt
        return f"{trigger}, {self.prompt}" if self.prompt else trigger


def infotext(request: Request, prompt: str, model: str, sampler: str, version: str) -> str:
    """Return what A1111 and others write into a PNG's ``parameters``, and read from there.

    Args:
        request: What was drawn.
        prompt: With what, trigger included.
        model: Name of the base.
        sampler: Name of the sampler.
        version: Of Elf.
    """
    drawn = prompt
    if request.adapter is not None:
        drawn += f" <lora:{re.sub(r'[<>:]', '_', request.adapter)}:{request.strength:g}>"
    lines = [drawn]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(
        f"Steps: {request.steps}, Sampler: {sampler}, CFG scale: {request.guidance:g}, "
        f"Seed: {request.seed}, Size: {request.width}x{request.height}, Model: {model}, "
        f"Version: Elf {version}"
    )
    return "\n".join(lines)
