"""What Elf asks of a tokenizer: tokens of many texts at once, its control tokens, its hash."""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from elf.checked import canonical
from elf.errors import ElfError
from elf.language.rows import Row


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the sha256 of all that decides a tokenizer's tokens, in hex.

    The backend's own state of padding and truncation is left out: each call changes it.
    """
    require_fast(tokenizer)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend.pop("padding", None)
    backend.pop("truncation", None)
    special = sorted(tokenizer.special_tokens_map.items(), key=lambda item: item[0])
    names = [(name, str(token)) for name, token in special]
    ids = tokenizer.all_special_ids
    return hashlib.sha256(canonical([backend, tokenizer.chat_template, names, ids])).hexdigest()


def require_fast(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say which characters a token stands for.

    Raises:
        ElfError: If it is not one of the tokenizers library's.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ElfError(
            f"{type(tokenizer).__name__} is no fast tokenizer, so masks cannot be exact: use a "
            "model with a tokenizer.json"
        )


class Tokenizing:
    """A fast tokenizer.

    Args:
        tokenizer: transformers' own.

    Attributes:
        tokenizer: transformers' own.
        thread: Where texts are tokenised while others are read and written: the library's own
            threads need no lock of Python's. One alone, for tokenizers have a state.
        vocabulary: One more than the largest token.
        special_ids: Control tokens; not the one for unknown characters.
        begins: What the tokenizer puts in front of a text (BOS), perhaps nothing.

    Raises:
        ElfError: If it is not fast.
    """

    def __init__(self, tokenizer: Any) -> None:
        require_fast(tokenizer)
        self.tokenizer = tokenizer
        self.thread = ThreadPoolExecutor(1)
        self.vocabulary = max(tokenizer.get_vocab().values(), default=0) + 1
        added = tokenizer.added_tokens_decoder
        special = {number: str(each) for number, each in added.items() if each.special}
        names = {*special.values(), *tokenizer.all_special_tokens}
        known = {*special, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        self.special_ids = frozenset(known)
        self._control = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        self._normalizer = None
        if any(each.special and each.normalized for each in added.values()):
            self._normalizer = tokenizer.backend_tokenizer.normalizer
        plain, whole = self.ids(["a"])[0], list(tokenizer("a")["input_ids"])
        place = next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)
        self.begins: list[int] = whole[:place]

    @property
    def end(self) -> int:
        """The token that ends a text.

        Raises:
            ElfError: If there is none.
        """
        end = self.tokenizer.eos_token_id
        if end is None:
            raise ElfError(
                f"{type(self.tokenizer).__name__} has no end-of-sequence token, so no text could "
                "end: give it one (eos_token in tokenizer_config.json)"
            )
        return int(end)

    def encode(self, texts: Sequence[str]) -> Any:
        """Return the encodings of texts, with nothing put around them, in the library's threads."""
        return self.tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a text longer than the model's window is cut later
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, with nothing put around them."""
        return list(self.encode(texts)["input_ids"]) if texts else []

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown(cancel_futures=True)

    def refuse_control(self, row: Row) -> None:
        """Refuse a row that holds a control token: it could forge turns, or end a text early.

        Raises:
            ElfError: With the row's place and the token.
        """
        for turn in row.turns:
            if found := self.control_token(turn.content):
                raise ElfError(
                    f"{row.where}: the {turn.role}'s words hold the control token {found!r}, "
                    "which could forge a turn; take it out of the row, or leave the row out"
                )

    def control_token(self, text: str) -> str | None:
        """Return the first control token that a text holds."""
        found = self._control.search(text)
        if not found and self._normalizer is not None:
            found = self._control.search(self._normalizer.normalize_str(text))
        return found[0] or None if found else None
