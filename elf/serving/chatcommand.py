"""Starts the chat page of a language model."""

from pathlib import Path
from typing import Any

from elf.language.asking import Asking
from elf.language.base import LanguageBase
from elf.language.rows import Turn
from elf.language.speaker import Speaker
from elf.serving.chat import ChatLimits, ChatRequest
from elf.serving.chatengine import ChatEngine, find_language
from elf.serving.command import find_device, find_dtype, listen, tell


def start_chat(options: Any, auth: tuple[str, str] | None) -> Any:
    """Load the model and the adapters, and start to listen.

    Args:
        options: The command's.
        auth: User and password.

    Returns:
        Gradio's blocks, listening.

    Raises:
        ElfError: If there is no such model or folder, or a value makes no sense.
    """
    limits = ChatLimits(options.longest_answer)
    first = ChatRequest(
        (Turn("user", options.prompt),), options.system, temperature=options.temperature,
        top_p=options.top_p, max_tokens=options.max_tokens,
    )  # fmt: skip
    first.checked(limits)
    device = find_device(options.device)
    dtype = find_dtype(options.precision, device, "bfloat16")
    speaker = Speaker(LanguageBase(options.base), dtype, device, options.quantization)
    Asking(speaker.base).refuse_control(first.row.turns)
    served, refused = find_language(Path(options.adapters), speaker)
    tell(device, list(served), refused)
    engine = ChatEngine(speaker, served, limits)

    def build(page: Any, folder: Path) -> Any:
        return page.build(engine, options.title, first, options.prompt, options.examples)

    return listen("elf.serving.chatpage", build, list(engine.served), options, auth)
