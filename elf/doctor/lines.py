"""The report as text: aligned, in colour on a terminal, and wrapped to its width."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO

from elf.doctor.finding import Finding, State

COLOURS: dict[State, str] = {"good": "32", "note": "33", "broken": "1;31"}
INDENT = 8


def is_coloured(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    dumb = environment.get("TERM") == "dumb"
    return stream.isatty() and not environment.get("NO_COLOR") and not dumb


class Lines:
    """Makes lines of findings.

    Args:
        names: Of all checks, below each other.
        coloured: Whether states are coloured.
        width: Columns; None wraps nothing.
    """

    def __init__(self, names: Iterable[str], coloured: bool, width: int | None) -> None:
        self._column = INDENT + max(len(shown(name)) for name in names) + 2
        self._coloured, self._width = coloured, width

    def of(self, finding: Finding) -> Iterator[str]:
        """Yield the lines of a finding: what is so, and what to do."""
        state = f"{finding.state:<{INDENT}}"
        if self._coloured:
            state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
        name = f"{shown(finding.check):<{self._column - INDENT}}"
        first, *rest = self._wrapped(finding.found)
        yield f"{state}{name}{first}"
        rest += [f"{'> ' if not n else '  '}{line}" for n, line in
                 enumerate(self._wrapped(finding.do)) if line]  # fmt: skip
        for line in rest:
            yield " " * self._column + line

    def _wrapped(self, text: str) -> list[str]:
        if self._width is None:
            return [text]
        room = max(20, self._width - self._column - 2)
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]


def shown(name: str) -> str:
    """Return a check's name as people read it."""
    return name.replace("_", " ").replace(".", " ")


def make_lines(names: Iterable[str], stream: TextIO = sys.stdout) -> Lines:
    """Return what suits a stream."""
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    return Lines(names, is_coloured(stream), width)


def verdict(found: Iterable[Finding]) -> str:
    """Return the report's last line."""
    wrong = [shown(each.check) for each in found if each.state == "broken"]
    if not wrong:
        return "Everything that Elf needs works."
    return f"Not in order: {', '.join(wrong)}."
