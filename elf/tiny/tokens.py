"""Byte-pair vocabularies over the world's words: small, made offline, always the same.

Every word becomes one token. Any other text still tokenizes, through its bytes.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from elf.bases.tokenizers import byte_letters

if TYPE_CHECKING:
    from transformers import BartTokenizer, CLIPTokenizer

Pair = tuple[str, str]


def learn_merges(words: Iterable[tuple[str, ...]]) -> list[Pair]:
    """Byte-pair merges after which each of the words is one symbol (Sennrich et al. 2016).

    Args:
        words: each word as its symbols.
    """
    pieces = [list(word) for word in words]
    merges: list[Pair] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]
    return merges


def _merge(word: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def clip_tokenizer(words: Iterable[str]) -> "CLIPTokenizer":
    """CLIP's tokenizer over `words`; at most 77 tokens a text."""
    from transformers import CLIPTokenizer

    merges = learn_merges((*word[:-1], word[-1] + "</w>") for word in words)
    alphabet = byte_letters()
    symbols = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    symbols += ["".join(pair) for pair in merges]
    # CLIP's pooled output sits at the highest token id: end of text must come last.
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def bart_tokenizer(words: Iterable[str]) -> "BartTokenizer":
    """BART's byte-level tokenizer over `words`, with Florence-2's image token."""
    from transformers import BartTokenizer

    spaced = [f"Ġ{word}" for word in words]
    started = [word.capitalize() for word in ("a", "what", "describe")]
    merges = learn_merges(tuple(word) for word in [*spaced, *started])
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *byte_letters()]
    symbols += ["".join(pair) for pair in merges]
    vocab = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    return BartTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=256,
    )
