"""Answers of a language model, several at a time, each told and drawn on its own.

Shapes: B rows, L tokens so far, V words.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Ending = Literal["end", "length", "stopped"]
Heard = Callable[[list[list[int]]], bool]
"""Is told the new tokens of each row after each step; True stops all of them."""


class Answer(NamedTuple):
    """What is said behind a prompt.

    Attributes:
        tokens: Without the one that ends it.
        ended: How: ``end`` by such a token, ``length`` at the most tokens, ``stopped`` by someone.
    """

    tokens: list[int]
    ended: Ending


class Draws:
    """Draws each row's next token by random numbers of its own, whatever stands beside it.

    u of [0, 1) takes the first token whose cumulative share, the likeliest first, is above u.

    Args:
        seeds: Of the rows.
        temperature: Scores are divided by it.
        top_p: Drawn among the likeliest tokens that have this share together (Holtzman et al.
            2020).
    """

    def __init__(self, seeds: Sequence[str | int], temperature: float, top_p: float) -> None:
        self._randoms = [Random(seed) for seed in seeds]
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V) that leave one token each."""
        scores = scores.float()
        scores = (scores - scores.amax(-1, keepdim=True)) / self.temperature
        ordered, places = scores.softmax(-1).double().sort(stable=True, dim=-1, descending=True)
        cumulative = ordered.cumsum(-1)
        kept = (cumulative - ordered < self.top_p).sum(-1, keepdim=True)
        share = cumulative.gather(-1, kept - 1)
        drawn = [[random.random()] for random in self._randoms]
        wanted = torch.tensor(drawn, dtype=share.dtype, device=share.device) * share
        chosen = torch.searchsorted(cumulative, wanted, right=True).minimum(kept - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, places.gather(-1, chosen), 0.0)


class _Listening:
    """Tells the new tokens, as one of transformers' criteria to stop."""

    def __init__(self, heard: Heard, longest: int) -> None:
        self._heard, self._longest = heard, longest
        self.stopped = False

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.stopped = self._heard(input_ids[:, self._longest :].tolist())
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)


def generate_rows(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    device: torch.device,
    draws: Draws | None = None,
    heard: Heard | None = None,
) -> list[Answer]:
    """Return what a model says behind prompts that it is given at once.

    Args:
        model: Of transformers, in evaluation mode.
        prompts: Tokens.
        max_new_tokens: After so many an answer ends, wherever it is.
        device: Where the model is.
        draws: Choose the tokens; None takes the likeliest.
        heard: Is told of each step.
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList

    ends = stop_tokens(model)
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), ends[0] if ends else 0)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):  # on the right, where each goes on
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    listening = None if heard is None else _Listening(heard, longest)
    made: Tensor = model.generate(
        input_ids=tokens.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=True,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        logits_processor=LogitsProcessorList([] if draws is None else [draws]),
        stopping_criteria=StoppingCriteriaList([] if listening is None else [listening]),
    )
    stopped = listening is not None and listening.stopped
    rows = [row[longest:] for row in made.tolist()]
    return [_answer(row, ends, max_new_tokens, stopped) for row in rows]


def _answer(row: list[int], ends: Sequence[int], most: int, stopped: bool) -> Answer:
    for place, token in enumerate(row):
        if token in ends:
            return Answer(row[:place], "end")
    return Answer(row, "stopped" if stopped and len(row) < most else "length")


def stop_tokens(model: Any) -> list[int]:
    """Return the tokens that end an answer, as the model's own configuration of generation says."""
    found: list[int] = []
    for config in (model.generation_config, model.config):
        value = getattr(config, "eos_token_id", None)
        found += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(found))
