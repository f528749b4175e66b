"""Documents: the tokens of rows, and which of them are trained on as labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elf.language.rows import Row
from elf.language.tokenizing import Tokenizing

Tokens = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]


Begun = Callable[[], list["Document"]]
"""Documents whose texts are being tokenised; to call it waits for them."""


@dataclass(frozen=True)
class Document:
    """Tokens with a mask.

    Attributes:
        tokens: (T,).
        trained: (T,) which are trained on, as labels.
        ends: Where it may end: behind the last token of each answer.
        splits: Whether it may go on in a document of its own (a text).
    """

    tokens: Tokens
    trained: Mask
    ends: tuple[int, ...] = ()
    splits: bool = False

    def __len__(self) -> int:
        return len(self.tokens)


def begin_prompts(rows: Sequence[Row], tokenizing: Tokenizing, everything: bool = False) -> Begun:
    """Begin the documents of prompts with completions.

    Both are tokenised on their own, as a prompt is when a model completes it, and the end of the
    text is trained too.

    Args:
        rows: The rows.
        tokenizing: The tokenizer.
        everything: Whether prompts are trained too.
    """
    texts = [turn.content for row in rows for turn in row.turns]
    ids = tokenizing.thread.submit(tokenizing.ids, texts)

    def documents() -> list[Document]:
        found = []
        for prompt, completion in zip(ids.result()[::2], ids.result()[1::2], strict=True):
            before = [*tokenizing.begins, *prompt]
            tokens = np.array([*before, *completion, tokenizing.end], np.uint32)
            trained = np.arange(len(tokens)) >= (0 if everything else len(before))
            found.append(Document(tokens, trained, (len(tokens),)))
        return found

    return documents


def begin_texts(rows: Sequence[Row], tokenizing: Tokenizing) -> Begun:
    """Begin the documents of plain texts: all of them is trained, their end too."""
    found = tokenizing.thread.submit(tokenizing.ids, [row.turns[0].content for row in rows])

    def document(ids: list[int]) -> Document:
        tokens = np.array([*tokenizing.begins, *ids, tokenizing.end], np.uint32)
        return Document(tokens, np.ones(len(tokens), bool), splits=True)

    return lambda: list(map(document, found.result()))
