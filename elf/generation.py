"""Pictures from prompts: one fixed seed each, whatever the batch size and the device."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elf.errors import ElfError

Encode = Callable[[list[str]], Mapping[str, Tensor]]
DENOISERS = ("unet", "transformer")
"""Parts of a pipeline that stay where they are: what is trained, on the device already."""


class SamplingStopped(Exception):
    """Sampling was asked to stop, and did after a denoising step."""


@dataclass
class GenerationConfig:
    """How pictures are sampled.

    Attributes:
        seed: Seed of the first prompt's starting noise; the next prompts take the next seeds.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale (Ho & Salimans 2022); 1 switches it off.
        negative_prompt: What to steer away from.
        width: Width in px; None takes the base's own size.
        height: Height in px; None takes the base's own size.
        batch_size: Pictures sampled at a time.
    """

    seed: int = 0
    steps: int = 30
    guidance: float = 7.5
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    batch_size: int = 1

    def check(self, key: str) -> None:
        """Refuse what no picture is sampled with.

        Args:
            key: Of the configuration, where these options stand.

        Raises:
            ElfError: With the key.
        """
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ElfError(f"{key}.{name} is {getattr(self, name)}; take 1 or more")
        for name in ("width", "height"):
            size = getattr(self, name)
            if size is not None and (size < 8 or size % 8):
                raise ElfError(f"{key}.{name} {size} is no multiple of 8, as latents want it")


class RememberedPrompts:
    """Text states of prompts, each made once: sample pictures have the same ones all along.

    SDXL's text encoders take 1.5 GiB of the device, which a small card has no more once steps are
    captured.

    Args:
        encode: Makes those of a list, from text encoders that do not change.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: dict[str, dict[str, Tensor]] = {}

    def know(self, prompts: Iterable[str]) -> bool:
        """Whether no text encoder is needed for prompts."""
        return all(prompt in self._known for prompt in prompts)

    def __call__(self, prompts: list[str]) -> dict[str, Tensor]:
        """Return the states of prompts, on the CPU."""
        for prompt in prompts:
            if prompt not in self._known:  # one at a time: a batch's sums come in another order
                states = self._encode([prompt])
                self._known[prompt] = {kind: state.cpu() for kind, state in states.items()}
        found = [self._known[prompt] for prompt in prompts]
        return {kind: torch.cat([each[kind] for each in found]) for kind in found[0]}


@torch.no_grad()
def encode_prompts(
    pipeline: Any, prompts: Sequence[str], config: GenerationConfig, device: torch.device,
    encode: Encode,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a pipeline's arguments that say what to draw, of each batch of prompts.

    ``encode`` makes the text states of prompts, ``text`` (B, N, D) and perhaps ``pooled`` (B, P),
    as training does: the pipeline cuts prompts at 77 tokens. The text encoders are on the device
    only as long as it works.
    """
    unwanted = config.negative_prompt
    known = isinstance(encode, RememberedPrompts) and encode.know([*prompts, unwanted])
    with _parts_on(pipeline, device, [] if known else text_parts(pipeline)):
        return [_conditions(each, unwanted, device, encode) for each in _batches(prompts, config)]


# Not inference_mode: what a network keeps from one forward pass to the next (norms of weights, say)
# could then no longer be trained with.
@torch.no_grad()
def generate(
    pipeline: Any,
    prompts: list[str],
    seeds: list[int],
    config: GenerationConfig,
    device: torch.device,
    output_type: Literal["pil", "np"] = "pil",
    stop: Callable[[], bool] | None = None,
    encode: Encode | None = None,
) -> list[Any]:
    """Sample one picture for each prompt and its seed, as PIL or as float arrays (H, W, 3) in 0..1.

    The pipeline's parts are moved to the device for it, and those that were elsewhere back there
    afterwards: training needs the memory. Starting noise comes from CPU generators, so that a seed
    gives the same picture on every device, up to rounding. ``encode`` makes the prompts' text
    states (`encode_prompts`); without it the pipeline does.

    Raises:
        SamplingStopped: After the denoising step during which ``stop`` began to return True.
    """

    def check(_: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        if stop is not None and stop():
            raise SamplingStopped
        return kept

    batches = _batches(prompts, config)
    conditions: list[dict[str, Any]]
    if encode is None:
        elsewhere: list[str] = []
        unwanted = config.negative_prompt
        conditions = [
            {"prompt": each, "negative_prompt": [unwanted] * len(each)} for each in batches
        ]
    else:
        elsewhere = text_parts(pipeline)
        conditions = encode_prompts(pipeline, prompts, config, device, encode)
    pictures: list[Any] = []
    rest = [name for name in pipeline.components if name not in (*DENOISERS, *elsewhere)]
    with _parts_on(pipeline, device, rest):
        for number, (chosen, condition) in enumerate(zip(batches, conditions, strict=True)):
            start = number * config.batch_size
            result = pipeline(
                **condition,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                width=config.width,
                height=config.height,
                output_type=output_type,
                callback_on_step_end=check,
                generator=[
                    torch.Generator("cpu").manual_seed(seed)
                    for seed in seeds[start : start + len(chosen)]
                ],
            )
            pictures += list(result.images)
    return pictures


def text_parts(pipeline: Any) -> list[str]:
    """Return the names of a pipeline's text encoders."""
    return [name for name in pipeline.components if name.startswith("text_encoder")]


def _batches(prompts: Sequence[str], config: GenerationConfig) -> list[list[str]]:
    starts = range(0, len(prompts), config.batch_size)
    return [list(prompts[start : start + config.batch_size]) for start in starts]


def _conditions(
    prompts: list[str], unwanted: str, device: torch.device, encode: Encode
) -> dict[str, Any]:
    """Return a pipeline's arguments that say what to draw, both halves of one length."""
    wanted, other = encode(prompts), encode([unwanted] * len(prompts))
    names = {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
    given = {names[kind]: state.to(device) for kind, state in wanted.items()}
    return given | {f"negative_{names[kind]}": state.to(device) for kind, state in other.items()}


@contextlib.contextmanager
def _parts_on(pipeline: Any, device: torch.device, names: Sequence[str]) -> Iterator[None]:
    parts = [
        part
        for name, part in pipeline.components.items()
        if name in names and isinstance(part, nn.Module)
    ]
    before = [next(part.parameters()).device for part in parts]
    try:
        for part in parts:
            part.to(device)
        yield
    finally:
        for part, place in zip(parts, before, strict=True):
            part.to(place)
