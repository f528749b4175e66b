"""Configs are UTF-8 on every system; jsonargparse reads them in the encoding of the country."""

from pathlib import Path as File
from typing import Any

from jsonargparse import Path  # type: ignore[attr-defined]


def read_configs_as_utf8() -> None:
    """Let jsonargparse read files as UTF-8; calling it again changes nothing.

    On Windows, where Python before 3.15 takes another encoding, prompts and trigger words with
    letters beyond ASCII would be other words, and nothing would say so.
    """
    original = Path.read_text
    if getattr(original, "is_of_elf", False):
        return

    def read_text(self: Any) -> str:
        absolute = File(self.absolute)
        if absolute.is_file() and not (self.is_url or self.is_fsspec):
            return absolute.read_text("utf-8")
        text: str = original(self)
        return text

    read_text.is_of_elf = True  # type: ignore[attr-defined]
    Path.read_text = read_text  # type: ignore[method-assign]
