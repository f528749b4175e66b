"""Chats through a tokenizer's template, with exact masks of what the assistant says.

A template with ``{% generation %}`` marks says itself what is the assistant's. Of any other the
answers are found by rendering the chat up to each of them: with the prompt to generate, which is
what a model sees, and with the answer. What lies between is the answer, if both are the beginning
of the whole chat; where they are not (a template that rewrites earlier turns), nothing is guessed.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from elf.errors import ElfError
from elf.language.documents import Begun, Document
from elf.language.rows import Row
from elf.language.settings import TrainOn
from elf.language.tokenizing import Tokenizing

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_REWRITES = (
    "the chat template writes answer {} otherwise once the chat goes on, so its tokens cannot be "
    "told; give data.chat_template one with {{% generation %}} marks, or set data.train_on: last"
)

Span = tuple[int, int]


class ChatTemplate:
    """Turns chats into documents.

    Args:
        tokenizing: The tokenizer.
        template: A template in place of the tokenizer's.
        train_on: What of the chats is trained on.
        length: Tokens that a document may have; where longer ones may end is looked for.

    Attributes:
        notes: What the user is to know of the template, and the first chat that shows it.

    Raises:
        ElfError: If there is no template.
    """

    def __init__(
        self, tokenizing: Tokenizing, template: str | None, train_on: TrainOn, length: int
    ) -> None:
        self._tokenizing, self._train_on, self._length = tokenizing, train_on, length
        self._template = template
        try:
            text = tokenizing.tokenizer.get_chat_template(template)
        except ValueError:
            raise ElfError(
                "the tokenizer has no chat template that applies: give one in data.chat_template, "
                "or rows with prompt and completion"
            ) from None
        self._marked = _MARK.search(text) is not None
        self.notes: dict[str, str] = {}
        if "strftime_now" in text:
            self._note(
                "the chat template writes today's date: chats prepared on another day differ"
            )

    def begin(self, rows: Sequence[Row]) -> Begun:
        """Begin the documents of chats.

        What lies behind the first answer that ends beyond the length is not looked at.

        Raises:
            ElfError: Now or then, if the template refuses a chat, or the answers in one cannot be
                told.
        """
        thread = self._tokenizing.thread
        if not rows:
            return list
        if self._marked:
            marked = thread.submit(self._apply, [row.messages() for row in rows])
            return lambda: self._by_marks(rows, marked)
        texts = [self._render(row, row.messages()) for row in rows]
        encoded = thread.submit(self._tokenizing.encode, texts)
        return lambda: self._by_prefixes(rows, texts, encoded.result())

    def _by_marks(self, rows: Sequence[Row], marked: Future[Any]) -> list[Document]:
        try:
            out = marked.result()
        except Exception:  # whichever a stranger's template raises: find the row that it is about
            for row in rows:
                self._explained(row, self._apply, [row.messages()])
            raise
        found = []
        for ids, mask, row in zip(out["input_ids"], out["assistant_masks"], rows, strict=True):
            edges = np.flatnonzero(np.diff(np.array([0, *mask, 0], np.int8)))
            spans = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
            if not spans:
                raise ElfError(
                    f"{row.where}: the chat template's generation marks hold nothing of this "
                    "chat; mend data.chat_template"
                )
            if any(ids[stop - 1] not in self._tokenizing.special_ids for _, stop in spans):
                self._note(
                    "the chat template's generation marks do not end with a control token: a "
                    "model is not taught to end its answers",
                    row,
                )
            self._look_at_beginning(ids, row)
            found.append(self._document(ids, spans))
        return found

    def _apply(self, chats: list[list[dict[str, str]]]) -> Any:
        return self._tokenizing.tokenizer.apply_chat_template(
            chats,
            chat_template=self._template,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )

    def _by_prefixes(self, rows: Sequence[Row], texts: list[str], out: Any) -> list[Document]:
        found = []
        for ids, encoding, text, row in zip(
            out["input_ids"], out.encodings, texts, rows, strict=True
        ):
            self._look_at_beginning(ids, row)
            spans: list[Span] = []
            # of all tokens that are trained on, only where they may be cut is of interest
            if self._train_on != "everything" or len(ids) > self._length:
                for answer in self._answers(row, text):
                    spans.append(self._tokens(row, ids, encoding, text, answer))
                    if spans[-1][1] > self._length:
                        break
            found.append(self._document(ids, spans))
        return found

    def _document(self, ids: Sequence[int], spans: Sequence[Span]) -> Document:
        if self._train_on == "last":
            spans = spans[-1:]
        trained = np.zeros(len(ids), bool)
        for start, stop in spans:
            trained[start:stop] = True
        if self._train_on == "everything":
            trained[:] = True
        return Document(np.array(ids, np.uint32), trained, tuple(stop for _, stop in spans))

    def _answers(self, row: Row, text: str) -> Iterator[Span]:
        """Yield from where to where the chat's text is the assistant's, in characters."""
        messages = row.messages()
        places = [n for n, turn in enumerate(row.turns) if turn.role == "assistant"]
        if self._train_on == "last":
            places = places[-1:]
        for number, place in enumerate(places, 1):
            before = self._render(row, messages[:place], prompt=True)
            last = place == len(messages) - 1
            until = text if last else self._render(row, messages[: place + 1])
            if not (text.startswith(before) and text.startswith(until)) or until == before:
                raise ElfError(f"{row.where}: {_REWRITES.format(number)}")
            if row.turns[place].content.strip() not in text[len(before) : len(until)]:
                self._note("the chat template writes answers otherwise than their rows", row)
            yield len(before), len(until)

    def _render(self, row: Row, messages: list[dict[str, str]], prompt: bool = False) -> str:
        (text,) = self._explained(
            row,
            self._tokenizing.tokenizer.apply_chat_template,
            [messages],  # as the only one of several: a single chat could not be empty
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=prompt,
        )
        return str(text)

    @staticmethod
    def _explained(row: Row, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:  # whichever a stranger's template raises
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise ElfError(
                f"{row.where}: the chat template refuses this chat ({why}); mend the row, or give "
                "another in data.chat_template"
            ) from None

    def _tokens(self, row: Row, ids: Sequence[int], encoding: Any, text: str, answer: Span) -> Span:
        """Return from which to which token an answer goes: to its control token, if it has one."""
        start = _token_at(encoding, answer[0], len(text), len(ids))
        stop = _token_at(encoding, answer[1], len(text), len(ids))
        if start < len(ids) and encoding.token_to_chars(start)[0] < answer[0]:
            self._note(
                "the first token of an answer begins within the prompt to generate: a model sees "
                "other tokens there when it generates",
                row,
            )
        for last in range(stop - 1, start - 1, -1):
            if ids[last] in self._tokenizing.special_ids:
                if not text[encoding.token_to_chars(last)[1] : answer[1]].strip():
                    return start, last + 1
                break
        self._note(
            "the chat template ends an answer with no control token: a model is not taught to end "
            "its answers",
            row,
        )
        return start, stop

    def _look_at_beginning(self, ids: Sequence[int], row: Row) -> None:
        begins = self._tokenizing.begins
        if begins and list(ids[: len(begins)]) != begins:
            token = self._tokenizing.tokenizer.convert_ids_to_tokens(begins[0])
            self._note(
                f"the tokenizer begins texts with {token} and the chat template does not: chats "
                "begin without it, as they do when a model is asked",
                row,
            )

    def _note(self, text: str, row: Row | None = None) -> None:
        self.notes.setdefault(text, row.where if row else "")


def _token_at(encoding: Any, character: int, characters: int, tokens: int) -> int:
    """Return the token of a character, or of the next that has one."""
    for place in range(character, characters):
        token = encoding.char_to_token(place)
        if token is not None:
            return int(token)
    return tokens
