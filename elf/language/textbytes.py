"""How many bytes of text a document's trained tokens stand for."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any


def trained_bytes(tokenizer: Any, tokens: Sequence[int], trained: Sequence[bool]) -> int:
    """Return the UTF-8 bytes of what is trained on, without control tokens.

    A run of trained tokens is as long as the text up to its end is longer than that before it: a
    tokenizer may write the beginning of a text otherwise than its middle.

    Args:
        tokenizer: The model's.
        tokens: Of the document.
        trained: Which are trained on.
    """
    found = at = 0
    for wanted, group in groupby(trained):
        end = at + len(list(group))
        if wanted:
            found += _bytes(tokenizer, tokens[:end]) - _bytes(tokenizer, tokens[:at])
        at = end
    return found


def _bytes(tokenizer: Any, tokens: Sequence[int]) -> int:
    text: str = tokenizer.decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return len(text.encode())
