"""What a language model says behind a prompt."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elf.autocasting import without_autocast
from elf.errors import ElfError
from elf.language.network import LanguageNetwork


@dataclass(frozen=True)
class TextGeneration:
    """How text is generated.

    Attributes:
        max_new_tokens: After so many it ends, wherever it is.
        temperature: 0 takes the likeliest token each time; above, it is drawn.
        top_p: Drawn among the likeliest tokens that have this share together.
        seed: Of the draws; each prompt's are the same, in whichever batch it is.
        batch_size: Prompts at a time, if nothing is drawn.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ElfError: With the key.
        """
        for key in ("max_new_tokens", "batch_size"):
            if getattr(self, key) < 1:
                raise ElfError(f"generation.{key}: {getattr(self, key)} must be at least 1")
        if self.temperature < 0:
            raise ElfError(f"generation.temperature: {self.temperature} must not be below 0")
        if not 0 < self.top_p <= 1:
            raise ElfError(f"generation.top_p: {self.top_p} must be above 0 and at most 1")


def prompt_tokens(tokenizer: Any, prompt: str | Sequence[dict[str, str]]) -> list[int]:
    """Return the tokens of what is to be answered or continued.

    Args:
        tokenizer: The model's.
        prompt: A chat; or a text, which is what a user says if the tokenizer has a chat template,
            else the beginning of what is to be continued.
    """
    if isinstance(prompt, str):
        if not tokenizer.chat_template:
            return list(tokenizer(prompt)["input_ids"])
        prompt = [{"role": "user", "content": prompt}]
    found = tokenizer.apply_chat_template(
        list(prompt), add_generation_prompt=True, return_dict=True, tokenize=True
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

    Greedy ones depend on nothing but the prompt, up to the rounding of other batches.

    Args:
        network: The model, the adapter in it.
        prompts: Tokens.
        config: How.
        device: Where the model is.
    """
    drawn = config.temperature > 0
    size = 1 if drawn else config.batch_size
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))  # little padding
    found: dict[int, list[int]] = {}
    with _answering(network) as model, without_autocast(device):
        for start in range(0, len(order), size):
            places = order[start : start + size]
            if drawn:
                torch.manual_seed(config.seed)
            rows = _generated(model, [prompts[place] for place in places], config, device)
            found |= dict(zip(places, rows, strict=True))
    return [found[place] for place in range(len(prompts))]


def _generated(
    model: Any, prompts: Sequence[Sequence[int]], config: TextGeneration, device: torch.device
) -> list[list[int]]:
    ends = stop_tokens(model)
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), ends[0] if ends else 0, device=device)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):  # on the right, where each goes on
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, longest - len(prompt) :] = 1
    drawn = config.temperature > 0
    choice: dict[str, Any] = {"do_sample": drawn, "temperature": None, "top_p": None, "top_k": None}
    if drawn:
        choice |= {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
    made: Tensor = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=config.max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=True,
        **choice,
    )
    return [_until(row[longest:].tolist(), ends) for row in made]


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    place = next((n for n, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:place]


def stop_tokens(model: Any) -> list[int]:
    """Return the tokens that end an answer, as the model's own configuration of generation says."""
    found: list[int] = []
    for config in (model.generation_config, model.config):
        value = getattr(config, "eos_token_id", None)
        found += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(found))


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
