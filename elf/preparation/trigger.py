"""The trigger word in captions and prompts: is it there, and what stands there without it."""

import re


def _word(trigger: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)")


def has_trigger(text: str, trigger: str) -> bool:
    """Whether a text holds the trigger as a word of its own: "an elfish hat" has no "elf"."""
    return _word(trigger).search(text) is not None


def without_trigger(text: str, trigger: str) -> str:
    """Return a text without the trigger, its commas tidied; one that has no trigger as it is."""
    if not has_trigger(text, trigger):
        return text
    parts = (" ".join(_word(trigger).sub("", part).split()) for part in text.split(","))
    return ", ".join(part for part in parts if part)
