"""What a language model says behind a prompt."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elf.autocasting import without_autocast
from elf.errors import ElfError
from elf.language.answering import Draws, generate_rows
from elf.language.network import LanguageNetwork


@dataclass(frozen=True)
class Decoding:
    """How an answer's tokens are chosen.

    Attributes:
        max_new_tokens: After so many it ends, wherever it is.
        temperature: 0 takes the likeliest token each time; above, it is drawn.
        top_p: Drawn among the likeliest tokens that have this share together.
        seed: Of the draws; a prompt's are the same, whatever is asked beside it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ElfError: With the key.
        """
        if self.max_new_tokens < 1:
            raise ElfError(f"generation.max_new_tokens: {self.max_new_tokens} must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ElfError(f"generation.temperature: {self.temperature} must not be below 0")
        if not 0 < self.top_p <= 1:
            raise ElfError(f"generation.top_p: {self.top_p} must be above 0 and at most 1")

    def draws(self, seeds: Sequence[str | int]) -> Draws | None:
        """Return what draws the tokens of rows with these seeds; None if none is drawn."""
        return Draws(seeds, self.temperature, self.top_p) if self.temperature else None


@dataclass(frozen=True)
class TextGeneration(Decoding):
    """How texts are generated.

    Attributes:
        batch_size: Prompts at a time.
    """

    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ElfError: With the key.
        """
        super().__post_init__()
        if self.batch_size < 1:
            raise ElfError(f"generation.batch_size: {self.batch_size} must be at least 1")


def prompt_tokens(tokenizer: Any, prompt: str | Sequence[dict[str, str]]) -> list[int]:
    """Return the tokens of what is to be answered or continued.

    Args:
        tokenizer: The model's.
        prompt: A chat; or a text, which is what a user says if the tokenizer has a chat template,
            else the beginning of what is to be continued.
    """
    if isinstance(prompt, str):
        if not tokenizer.chat_template:
            return list(tokenizer(prompt, verbose=False)["input_ids"])
        prompt = [{"role": "user", "content": prompt}]
    found = tokenizer.apply_chat_template(
        list(prompt),
        add_generation_prompt=True,
        return_dict=True,
        tokenize=True,
        tokenizer_kwargs={"verbose": False},  # of what is too long others say so
    )
    return list(found["input_ids"])


@torch.no_grad()
def complete(
    network: LanguageNetwork,
    prompts: Sequence[Sequence[int]],
    config: TextGeneration,
    device: torch.device,
) -> list[list[int]]:
    """Return the new tokens behind each prompt, without the one that ends them.

    They depend on nothing but the prompt and the seed, up to the rounding of other batches.

    Args:
        network: The model, the adapter in it.
        prompts: Tokens.
        config: How.
        device: Where the model is.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))  # little padding
    found: dict[int, list[int]] = {}
    with _answering(network) as model, without_autocast(device):
        for start in range(0, len(order), config.batch_size):
            places = order[start : start + config.batch_size]
            asked = [prompts[place] for place in places]
            draws = config.draws([config.seed] * len(places))
            rows = generate_rows(model, asked, config.max_new_tokens, device, draws)
            found |= {place: row.tokens for place, row in zip(places, rows, strict=True)}
    return [found[place] for place in range(len(prompts))]


@contextlib.contextmanager
def _answering(network: LanguageNetwork) -> Iterator[Any]:
    """The model as it answers: nothing dropped, and an attention that knows of padding."""
    model: Any = network.model
    training = model.training
    model.eval()
    if network.varlen:
        model.set_attn_implementation("sdpa")
    try:
        yield model
    finally:
        if network.varlen:
            from elf.language.attention import PACKED

            model.set_attn_implementation(PACKED)
        model.train(training)
