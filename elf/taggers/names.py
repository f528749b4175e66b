"""Sets of tags by name and pattern."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

from elf.taggers.tags import is_kaomoji


def list_name(text: str) -> str:
    """Return a tag's name as it stands in a list: underscores, no escapes."""
    text = text.replace(r"\(", "(").replace(r"\)", ")").strip()
    return text if is_kaomoji(text) else text.replace(" ", "_")


class NameSet:
    """Names and patterns (``*`` stands for any characters), less exceptions."""

    def __init__(self, names: Iterable[str], exceptions: Iterable[str] = ()) -> None:
        self._names, self._patterns = _compile(names)
        self._but, self._but_patterns = _compile(exceptions)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name in self._but:
            return False
        if self._but_patterns and self._but_patterns.fullmatch(name):
            return False
        return name in self._names or bool(self._patterns and self._patterns.fullmatch(name))

    def among(self, names: Sequence[str]) -> list[int]:
        """Return at which places of a list its members stand; quicker than to ask for each."""
        known = set(names)
        members = self._names & known
        if self._patterns:
            members |= set(filter(self._patterns.fullmatch, known))
        members = {name for name in members if name in self}  # less the exceptions
        return [place for place, name in enumerate(names) if name in members]


def _compile(names: Iterable[str]) -> tuple[set[str], re.Pattern[str] | None]:
    plain = {list_name(name) for name in names}
    # signs alone (*_*) are a face and no pattern
    globs = [name for name in plain if "*" in name and name.strip("*_")]
    patterns = [".*".join(map(re.escape, name.split("*"))) for name in globs]
    return plain, re.compile("|".join(patterns)) if patterns else None


def nearest(name: str, known: Collection[str]) -> str:
    """Return a question for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


def unmatched(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Return the names and patterns that fit nothing that is known."""
    missing = []
    for name in dict.fromkeys(names):
        plain, pattern = _compile([name])
        if not plain & set(known) and not (pattern and any(map(pattern.fullmatch, known))):
            missing.append(name)
    return missing
