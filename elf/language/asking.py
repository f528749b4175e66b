"""From what is asked to the tokens that a model answers to."""

from collections.abc import Sequence
from typing import Any

from elf.errors import ElfError
from elf.language.base import LanguageBase
from elf.language.generation import prompt_tokens
from elf.language.rows import Row, Turn
from elf.language.tokenizing import Tokenizing


class Asking:
    """Makes tokens of prompts, and words of answers.

    A control token within somebody's words is refused: a template's text is read as a whole, and
    such a token would end the turn there and begin another, in the name of whomever.

    Args:
        base: The model.
    """

    def __init__(self, base: LanguageBase) -> None:
        self.base = base
        self._tokenizing = Tokenizing(base.tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._tokenizing.tokenizer

    def tokens(self, row: Row, room: int, plain: bool = False) -> list[int]:
        """Return the tokens of what is to be answered.

        Args:
            row: A chat, or a prompt.
            room: Tokens that the answer may have.
            plain: Whether a prompt is to be continued as it stands, as it is in training, and not
                answered as what a user says.

        Raises:
            ElfError: If it holds control tokens, the chat template refuses it, or it is too long.
        """
        self._tokenizing.refuse_control(row)
        if row.kind == "prompt" and plain:
            found = [*self._tokenizing.begins, *self._tokenizing.ids([row.turns[0].content])[0]]
        else:
            found = self._by_template(row)
        context = self.base.context
        if not found:
            raise ElfError(f"{row.where}: no tokens; write something")
        if context is not None and len(found) + room > context:
            raise ElfError(
                f"{row.where}: {len(found)} tokens, with {room} for the answer, are more than the "
                f"{context} that the model was made for; shorten it, or take a shorter answer"
            )
        return found

    def refuse_control(self, turns: Sequence[Turn]) -> None:
        """Refuse a control token in what is typed, by the message that holds it.

        Raises:
            ElfError: With the message's number, the system's being 0, and the token.
        """
        first = int(turns[0].role != "system") if turns else 0
        for number, turn in enumerate(turns, first):
            if found := self._tokenizing.control_token(turn.content):
                name = "the system prompt" if turn.role == "system" else f"message {number}"
                raise ElfError(
                    f"{name} holds the control token {found!r}, which could forge a turn; take it "
                    "out"
                )

    def _by_template(self, row: Row) -> list[int]:
        if row.kind == "chat" and not self.tokenizer.chat_template:
            raise ElfError(
                f"{row.where}: {self.base.name} has no chat template; ask by `prompt`, or take an "
                "instruct model"
            )
        said = row.messages() if row.kind == "chat" else row.turns[0].content
        try:
            return prompt_tokens(self.tokenizer, said)
        except Exception as error:  # whichever a stranger's template raises
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise ElfError(f"{row.where}: the chat template refuses this chat ({why})") from None

    def words(self, tokens: Sequence[int]) -> str:
        """Return an answer's text, control tokens left out."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
