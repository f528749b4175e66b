"""How a run made its documents, from its configuration."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.language.settings import TextSettings

LENGTH = 1024
"""Tokens of a document at most, where no run says; fewer if the model was made for fewer."""


def settings_of_run(data: Mapping[str, Any], context: int | None) -> TextSettings:
    """Return the settings of a run's documents.

    Args:
        data: The ``data`` section of its configuration; empty if there is none.
        context: Tokens that the model was made for.

    Raises:
        ElfError: If its chat template cannot be read, or a value is none.
    """
    given = {each.name: data[each.name] for each in fields(TextSettings) if each.name in data}
    given.setdefault("length", min(LENGTH, context or LENGTH))
    return TextSettings(**{**given, "chat_template": read_template(given.get("chat_template"))})


def read_template(path: str | None) -> str | None:
    """Return a chat template from its file; None for none.

    Raises:
        ElfError: If it cannot be read.
    """
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8"
        raise ElfError(
            f"data.chat_template: {path} cannot be read ({reason}); give a file, or leave it out"
        ) from None
