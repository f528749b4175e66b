"""Answers with one language model and many adapters: one request at a time, whoever asks."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elf.errors import ElfError
from elf.export.trained import Trained, read_trained
from elf.language.answering import Ending
from elf.language.asking import Asking
from elf.language.generation import Decoding
from elf.language.speaker import Speaker
from elf.serving.catalog import read_all
from elf.serving.chat import ChatLimits, ChatRequest

Heard = Callable[[str], None]
"""Is told the answer so far, after each token."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""Stands for a character of which some bytes are still to come."""


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        text: It.
        tokens: How many.
        ended: How.
        request: What was asked for, with its seed.
    """

    text: str
    tokens: int
    ended: Ending
    request: ChatRequest

    @property
    def note(self) -> str:
        """How it came about, in a line."""
        request = self.request
        plain = request.adapter is None or request.strength == 0
        what = "base" if plain else f"{request.adapter} × {request.strength:g}"
        how = {"end": "", "length": ", cut at max_tokens", "stopped": ", stopped"}[self.ended]
        drawn = f", seed {request.seed}" if request.temperature else ", greedy"
        return f"{what}{drawn}: {self.tokens} tokens{how}"


class ChatEngine:
    """A language model that answers, with one adapter in it at a time.

    Args:
        speaker: The model.
        served: The adapters that can be asked for, by their names.
        limits: Of what may be asked for.
    """

    def __init__(
        self,
        speaker: Speaker,
        served: Mapping[str, Trained],
        limits: ChatLimits = ChatLimits(),  # noqa: B008 (a constant)
    ) -> None:
        self.served, self.limits = dict(served), limits
        self._speaker, self._asking = speaker, Asking(speaker.base)
        self._lock = threading.Lock()

    def answer(
        self,
        request: ChatRequest,
        heard: Heard = lambda text: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Said:
        """Answer; others wait.

        Args:
            request: What is asked.
            heard: Is told of each token.
            stopped: Is asked after each token whether to stop.

        Raises:
            ElfError: If the request is beyond the limits, names no adapter, holds a control token,
                or takes more than the model's context or the memory.
        """
        request = request.checked(self.limits)
        if request.adapter is not None and request.adapter not in self.served:
            raise ElfError(f"there is no adapter {request.adapter!r}")

        def hear(rows: list[list[int]]) -> bool:
            heard(self._asking.words(rows[0]).rstrip(BROKEN))
            return stopped()

        decoding = Decoding(request.max_tokens, request.temperature, request.top_p)
        with self._lock:  # tokenizers have a state, too
            self._asking.refuse_control(request.row.turns)
            prompt = self._asking.tokens(request.row, request.max_tokens)
            trained = None if request.adapter is None else self.served[request.adapter]
            self._speaker.take(trained, request.strength)
            (answer,) = self._speaker.answer([prompt], decoding, [request.seed], hear)
            text = self._asking.words(answer.tokens)
        return Said(text, len(answer.tokens), answer.ended, request)


def find_language(folder: Path, speaker: Speaker) -> tuple[dict[str, Trained], list[str]]:
    """Read the adapters in a folder: runs, and folders in peft's form.

    Args:
        folder: Where they are; links that lead out of it are passed over.
        speaker: The model on which they are to work: each is tried.

    Returns:
        Those that work, by their names, and a line for each of the others.

    Raises:
        ElfError: If there is no such folder.
    """
    base = speaker.base

    def read(path: Path) -> Trained:
        trained = read_trained(path, base.name)
        trained.refuse_other_language(base.fingerprint, base.name)
        speaker.take(trained)
        return trained

    found = read_all(folder, read)
    speaker.take(None)
    return found
