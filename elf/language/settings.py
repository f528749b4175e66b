"""What decides how rows of text become documents of tokens."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from elf.errors import ElfError

TrainOn = Literal["completion", "last", "everything"]
Truncation = Literal["whole", "cut"]


@dataclass(frozen=True)
class TextSettings:
    """Of documents; what is cached is made anew when one of these changes.

    Attributes:
        length: Tokens that a document has at most.
        train_on: ``completion``: every assistant turn, a completion, all of a text. ``last``: of a
            chat the last assistant turn alone. ``everything``: each token.
        truncation: ``whole``: a document that is too long ends with the last answer that fits
            whole, and a text goes on in a document of its own. ``cut``: it ends at the length.
        held_out: The share of rows kept for validation, 0-1, chosen by their ids.
        chat_template: A template in place of the tokenizer's.
    """

    length: int
    train_on: TrainOn = "completion"
    truncation: Truncation = "whole"
    held_out: float = 0.05
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ElfError(f"data.length: {self.length} tokens; 2 are the least that can be learnt")
        if not 0 <= self.held_out < 1:
            raise ElfError(f"data.held_out: {self.held_out} is no share; give 0 to less than 1")
        for key, known in (("train_on", get_args(TrainOn)), ("truncation", get_args(Truncation))):
            if (value := getattr(self, key)) not in known:
                raise ElfError(
                    f"data.{key}: {value!r} is not known; give one of {', '.join(known)}"
                )

    def as_json(self) -> dict[str, Any]:
        """Return them in the form that is written down."""
        return asdict(self)
