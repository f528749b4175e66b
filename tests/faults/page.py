"""Writes docs/faults.md: each promise, the tests that hold it, and what was counted when they ran.

    pytest -m "fault and not slow" --junitxml=short.xml     # the short column: a part of every run
    pytest -m "fault and slow" -n0 --junitxml=long.xml      # the long one: hours
    python tests/faults/page.py short.xml long.xml          # takes the figures in, writes the page

A test's cases may be spread over several reports; those that are given together are added up.
Tests say with ``@pytest.mark.fault(NUMBER, …)`` what they hold; that is read from their source. The
figures are kept in figures.json beside this file.
"""

import ast
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "faults.md"
FIGURES = HERE / "figures.json"
COLUMNS = ("short", "long")


class Promise(NamedTuple):
    """A fault, what must be true of it, and how much of it is asked for in each column."""

    fault: str
    holds: str
    short: str
    long: str


PROMISES = {
    1: Promise(
        "`kill -9` while pictures are labelled or prompts answered, at random instants",
        "0 lost, 0 doubled; in the end the manifest is that of an undisturbed run, byte for byte",
        "50 kills", "1,000 kills",
    ),
    2: Promise(
        "`kill -9` in `elf prepare`, `elf rename`, `elf export`, `elf curate`",
        "the next run ends with the bytes of a clean one; nothing partial has a final name",
        "50 kills of the writers, 3 of each command", "1,000 kills of the writers",
    ),
    3: Promise(
        "`kill -9` while a checkpoint is written, the temporary folder on another file system",
        "every visible checkpoint loads, and one survives",
        "30 kills", "500 kills",
    ),
    4: Promise(
        "logs (JSON Lines) cut at every byte of their last three records",
        "only the torn tail goes",
        "every byte", "every byte",
    ),
    5: Promise(
        "bits flipped in shards, indices and token stores",
        "every one is found",
        "1,000 flips", "100,000 flips",
    ),
    6: Promise(
        "shards cut at every 512 bytes",
        "the error names the shard",
        "every cut", "every cut",
    ),
    7: Promise(
        "the k-th operation of the disk fails: full (ENOSPC), EIO, a short write, EINTR",
        "the old state or the new one, never a mixture; the command ends with one line",
        "every k of the writers, some of the commands", "every k",
    ),
    8: Promise(
        "two writers of one folder",
        "the second is refused within a second, with the owner's process id",
        "20 times", "20 times",
    ),
    9: Promise(
        "a training stopped at any step and gone on with: ends of epochs, accumulation, dropout, "
        "0 to 3 workers, twice",
        "weights, optimizer and order are bit-equal on a CPU",
        "20 stops", "every step of three epochs",
    ),
    10: Promise(
        "1, 2, 4 or 8 processes",
        "the same global batches; a run with another global batch is refused",
        "the pure function for all, real ones for 2", "the same, and a change from 2 to 1",
    ),
    11: Promise(
        "SIGTERM and Ctrl-C while training",
        "saved within a step, exit code 143 (130), and gone on with as in 9",
        "20 signals", "every batch of two and a half epochs",
    ),
    12: Promise(
        "a worker dies, a loss is not finite, picture k is damaged",
        "a clear error, or that picture in quarantine; no hang",
        "every k", "every k",
    ),
    13: Promise(
        "damaged pictures: JPEG, PNG, WebP, GIF, BMP",
        "a picture or the one `BadImage`; a second and a gigabyte at most",
        "20,000 pictures", "1,000,000 pictures",
    ),
    14: Promise(
        "damaged tars, YAML, rows of text, safetensors",
        "taken, or refused in one line",
        "5,000 files of a kind", "500,000 files of a kind",
    ),
    15: Promise(
        "hostile files: a pickle in a tar, `pipe:` for a path, members that lead out of their "
        "folder or are links, decompression bombs, `class_path: os.system`, code in a checkpoint",
        "0 executions; nothing outside the folder is touched; each message is tested",
        "all", "all",
    ),
    16: Promise(
        "`elf serve`: paths out of its folder, no password where others can reach it, an upload of "
        "ten times the limit",
        "403, no start, 413",
        "all", "all",
    ),
}  # fmt: skip

HEAD = """# What must not go wrong, and how often it was tried

Elf makes 16 promises: an interruption at any moment loses nothing that was acknowledged; a run that
goes on is the run that was not interrupted; bad input is a clear error or an item in quarantine; a
file from a stranger runs no code. Here is each of them, with the tests that hold it and what they
counted. The short column runs with all other tests; the long one takes hours, and its figures have
the day on which they were counted. `3 of 5` says that there are figures of three of a fault's five
tests: no run of the others was noted here yet. In part: less than is asked for, as the test's row
says.

This page is written by `tests/faults/page.py` out of the tests' marks and of their reports; its
head says how. `pytest -m "fault and not slow"` runs the short column, `pytest -m "fault and slow"
-n0` the long one; `ELF_LONG=0.1` before it runs a tenth of the counts.
"""


class Held(NamedTuple):
    """A test, the faults that it is about, and the columns that it has."""

    name: str
    numbers: tuple[int, ...]
    columns: tuple[str, ...]


def held(tests: Path = ROOT / "tests") -> list[Held]:
    """Return all tests that are marked with faults, by what their source says."""
    found = []
    for path in sorted(tests.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if "mark.fault(" not in source:
            continue
        tree = ast.parse(source)
        of_all = [
            mark
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
            for mark in (node.value.elts if isinstance(node.value, ast.List) else [node.value])
        ]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [*of_all, *node.decorator_list]
                numbers = {number for mark in marks for number in _numbers(mark)}
                if numbers:
                    name = f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                    found.append(Held(name, tuple(sorted(numbers)), _columns(marks)))
    return found


def _numbers(mark: ast.expr) -> list[int]:
    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
        return [ast.literal_eval(number) for number in mark.args]
    return []


def _columns(marks: list[ast.expr]) -> tuple[str, ...]:
    said = [ast.unparse(mark) for mark in marks]
    if "pytest.mark.slow" in said:
        return ("long",)
    return COLUMNS if any("pytest.mark.slow" in mark for mark in said) else ("short",)


class Case(NamedTuple):
    """What one case of a test has counted."""

    test: str
    column: str
    day: str
    figures: list[tuple[str, float]]


def cases(report: Path) -> dict[str, Case]:
    """Return what a JUnit report says of tests of faults, by their names with parameters.

    Raises:
        SystemExit: If one of them failed: there is no figure of that.
    """
    found = {}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            pairs = [(p.attrib["name"], p.attrib["value"]) for p in case.iter("property")]
            column = dict(pairs).get("column")
            if column is None or case.find("skipped") is not None:
                continue
            path = case.attrib["classname"].replace(".", "/")
            test = f"{path}.py::{case.attrib['name'].split('[')[0]}"
            if case.find("failure") is not None or case.find("error") is not None:
                raise SystemExit(f"{report}: {test} failed")
            figures = [(key, float(n)) for key, n in pairs if key not in ("fault", "column")]
            day = suite.attrib["timestamp"][:10]
            found[f"{path} {case.attrib['name']}"] = Case(test, column, day, figures)
    return found


def counted(reports: list[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what reports say together: figures by test and column; the last says what a case is.

    Raises:
        SystemExit: If a test failed.
    """
    known = {name: case for report in reports for name, case in cases(report).items()}
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for case in known.values():
        entry = found[case.test].setdefault(
            case.column, {"date": case.day, "cases": 0, "figures": Counter()}
        )
        entry["cases"] += 1
        entry["date"] = max(entry["date"], case.day)
        figures = entry["figures"]
        for key, number in case.figures:
            most = key.startswith("most_")
            figures[key] = max(figures[key], number) if most else figures[key] + number
    return found


def take_in(reports: list[Path]) -> None:
    """Put the figures of reports into figures.json, in the place of older ones."""
    kept = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    columns_of = {test.name: test.columns for test in held()}
    for name, columns in counted(reports).items():
        for column, entry in columns.items():
            figures = {
                key: round(value) if value == round(value) else round(value, 1)
                for key, value in entry["figures"].items()
            }
            kept.setdefault(name, {})[column] = {**entry, "figures": figures}
    kept = {  # what is no more, or has gone to the other column, goes
        name: {column: kept[name][column] for column in kept[name] if column in columns_of[name]}
        for name in sorted(kept.keys() & columns_of.keys())
    }
    FIGURES.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _said(entry: dict[str, Any] | None, column: str) -> str:
    """Return a cell: the figures, or how many cases passed; of a part, of how many."""
    if entry is None:
        return "in every run" if column == "short" else "not run yet"
    figures = dict(entry["figures"])
    whole = figures.pop("of", None)
    words = [
        f"{'at most ' * key.startswith('most_')}{value:,} "
        + key.removeprefix("most_").replace("_", " ")
        for key, value in figures.items()
    ]
    if _is_part(entry):
        first, _, what = words[0].partition(" ")
        words[0] = f"**{first} of {whole:,g}** {what}"
    passed = f"{entry['cases']} case{'s' * (entry['cases'] != 1)} passed"
    return ", ".join(words) or passed


def _is_part(entry: dict[str, Any]) -> bool:
    """Whether a test ran less than its column asks for."""
    first = next((value for key, value in entry["figures"].items() if key != "of"), 0)
    return first < 0.99 * entry["figures"].get("of", 0)


def _in_all(entries: list[dict[str, Any]], tests: int) -> str:
    """Return a cell of the first table: what so many tests of a fault have counted together."""
    if not tests:
        return ""
    total: Counter[str] = Counter()
    for entry in entries:
        for key, value in entry["figures"].items():
            if key != "of" and not key.startswith("most_"):
                total[key] += value
    words = [f"{value:,} {key.replace('_', ' ')}" for key, value in total.items()]
    part = ", in part" if any(map(_is_part, entries)) else ""
    return "; ".join([*([", ".join(words)] if words else []), f"{len(entries)} of {tests}{part}"])


def page() -> str:
    """Return docs/faults.md."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    tests = held()
    table, parts = ["\n| | fault | short | long |\n|---|---|---|---|\n"], []
    for number, promise in PROMISES.items():
        mine = [test for test in tests if number in test.numbers]
        cells = []
        for column in COLUMNS:
            its = [test.name for test in mine if column in test.columns]
            seen = [figures[name][column] for name in its if column in figures.get(name, {})]
            cells.append(_in_all(seen, len(its)))
        table.append(f"| {number} | {promise.fault} | {cells[0]} | {cells[1]} |\n")
        parts.append(
            f"\n## {number}. {promise.fault[0].upper()}{promise.fault[1:]}\n\n"
            f"Holds: {promise.holds}.\n"
            f"Asked for: {promise.short}; in the long column {promise.long}.\n\n"
            "| test | short | long |\n|---|---|---|\n"
        )
        for test in mine:
            seen = figures.get(test.name, {})
            cells = ["" if column not in test.columns else _said(seen.get(column), column)
                     for column in COLUMNS]  # fmt: skip
            if "long" in seen:
                cells[1] += f" ({seen['long']['date']})"
            name = test.name.removeprefix("tests/").replace("::", " ")
            parts.append(f"| `{name}` | {cells[0]} | {cells[1]} |\n")
    return "".join([HEAD, *table, *parts])


if __name__ == "__main__":
    take_in([Path(argument) for argument in sys.argv[1:]])
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
