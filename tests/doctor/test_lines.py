"""The report as it is read: aligned, in colour on a terminal alone, no wider than that."""

import io

import pytest

from elf.doctor.finding import broken, first_line, good, note
from elf.doctor.lines import Lines, is_coloured, make_lines, shown, verdict


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals() -> None:
    assert is_coloured(Terminal(), {"TERM": "xterm"})
    assert not is_coloured(io.StringIO(), {"TERM": "xterm"})
    assert not is_coloured(Terminal(), {"NO_COLOR": "1"})
    assert is_coloured(Terminal(), {"NO_COLOR": ""}), "an empty one does not count"
    assert not is_coloured(Terminal(), {"TERM": "dumb"})


def test_a_line_and_what_to_do() -> None:
    lines = Lines(["gpu", "disk.runs"], coloured=False, width=None)
    assert list(lines.of(good("gpu", "a card"))) == ["good    gpu        a card"]
    assert list(lines.of(note("disk.runs", "nearly full", "free some"))) == [
        "note    disk runs  nearly full",
        "                   > free some",
    ]


def test_colours_do_not_move_columns() -> None:
    plain = Lines(["gpu"], coloured=False, width=None).of(broken("gpu", "none", "buy"))
    coloured = Lines(["gpu"], coloured=True, width=None).of(broken("gpu", "none", "buy"))
    stripped = [line.replace("\x1b[1;31m", "").replace("\x1b[0m", "") for line in coloured]
    assert stripped == list(plain)


def test_long_lines_are_wrapped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    long = note("gpu", "word " * 40, "pip install something-with-hyphens " * 3)
    assert max(len(line) for line in make_lines(["gpu"], Terminal()).of(long)) <= 50 + 9
    assert len(list(make_lines(["gpu"], io.StringIO()).of(long))) == 2


def test_the_verdict() -> None:
    assert verdict([good("gpu", ""), note("hub", "", "x")]) == "Everything that Elf needs works."
    wrong = [broken("gpu", "", "x"), broken("disk.runs", "", "x")]
    assert verdict(wrong) == "Not in order: gpu, disk runs."
    assert shown("shared_memory") == "shared memory"


def test_errors_become_one_short_line() -> None:
    assert first_line("a\n  b") == "a b"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line("x" * 999)) == 200
