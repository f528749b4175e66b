"""Trains the tiny language on chats about the world: cross-entropy, mostly of the answers."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from elf.tiny.heads import look_back
from elf.tiny.language import model, save, tokenizer
from elf.tiny.loop import Average, Budget, train
from elf.world.talk import Row, chats

QUESTION_WEIGHT = 0.1
"""Of a token that the assistant does not say, against 1: most of them come by lot."""

SMOOTHING = 0.02
"""Of the labels: who is never surer than that can still be taught."""

POOL = 64
"""Batches whose chats are sorted by length together, so that little is padding."""

Batch = tuple[Tensor, Tensor]
"""Token ids (chats, tokens), and the weight of each in the loss."""


def batches(count: int, size: int, seed: int) -> list[Batch]:
    """`count` chats in batches of about one length, in an order by lot."""
    tokens = tokenizer()
    read = tokens.apply_chat_template(
        chats(seed, count), return_dict=True, return_assistant_tokens_mask=True
    )
    rows = list(zip(read["input_ids"], read["assistant_masks"], strict=True))
    made = []
    for first in range(0, count, POOL * size):
        pool = sorted(rows[first : first + POOL * size], key=lambda row: len(row[0]))
        for start in range(0, len(pool), size):
            part = pool[start : start + size]
            ids = torch.full((len(part), len(part[-1][0])), tokens.pad_token_id)
            weights = torch.zeros(ids.shape)
            for number, (row, said) in enumerate(part):
                ids[number, : len(row)] = torch.tensor(row)
                weights[number, : len(row)] = torch.tensor(said).float().clamp(QUESTION_WEIGHT)
            made.append((ids, weights))
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(seed))
    return [made[number] for number in order.tolist()]


def fit(folder: str | Path, budget: Budget, count: int = 60000) -> Path:
    """Train a language model on `count` chats, over and over, and write it."""
    torch.manual_seed(budget.seed)
    budget = replace(budget, graphs=False)  # no two batches have the same shape
    tokens = tokenizer()
    language = model(tokens)
    look_back(language)
    language.to(budget.device)
    average = Average(language, 0.998)
    order = cycle(batches(count, budget.batch, budget.seed))

    def loss() -> Tensor:
        ids, weights = (tensor.to(budget.device) for tensor in next(order))
        # Padding comes after a chat and nothing looks ahead: no mask is needed.
        logits = language(input_ids=ids[:, :-1], use_cache=False).logits.float()
        each = F.cross_entropy(
            logits.transpose(1, 2), ids[:, 1:], reduction="none", label_smoothing=SMOOTHING
        )
        return (each * weights[:, 1:]).sum() / weights[:, 1:].sum()

    train("language", [language], budget, [loss], [average])
    return save(average.model.cpu(), tokens, folder)


@torch.no_grad()
def answers(folder: str | Path, rows: Sequence[Row], batch: int = 64) -> list[str]:
    """What a stored language model answers to chats that end with a question, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder, padding_side="left")
    language = AutoModelForCausalLM.from_pretrained(folder).eval()
    said: list[str] = []
    for first in range(0, len(rows), batch):
        asked = tokens.apply_chat_template(
            [row["messages"] for row in rows[first : first + batch]],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = language.generate(**asked)[:, asked["input_ids"].shape[1] :]
        said += tokens.batch_decode(ids, skip_special_tokens=True)
    return said


def exact_match(folder: str | Path, rows: Sequence[Row]) -> float:
    """The share of rows that a stored language model answers with their very `reference`."""
    said = answers(folder, rows)
    right: list[bool] = [answer == row["reference"] for answer, row in zip(said, rows, strict=True)]
    return sum(right) / len(right)
