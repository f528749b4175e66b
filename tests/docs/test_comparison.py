"""docs/comparison.md says nothing that the log of results does not."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/comparison.md").read_text("utf-8")
RESULTS = (ROOT / "benchmarks/RESULTS.md").read_text("utf-8")
TABLES = re.findall(r"^\|(?!\s*---)(.*)\|$", PAGE, re.MULTILINE)


def figures(text: str) -> list[str]:
    """Numbers as they are written, less those that are part of a name."""
    return re.findall(r"(?<![\w.,-])×?\d[\d,]*(?:\.\d+)?(?![\w,]*\d|-)", text)


def test_every_figure_of_the_tables_stands_in_the_log() -> None:
    known = set(figures(RESULTS)) | {f"×{each}" for each in re.findall(r"×\s?([\d.]+)", RESULTS)}
    found = [each for row in TABLES for cell in row.split("|")[1:] for each in figures(cell)]
    assert len(found) > 45
    assert sorted(set(found) - known) == []


@pytest.mark.parametrize("tool", ["kohya's sd-scripts", "OneTrainer", "SimpleTuner", "ai-toolkit"])
def test_what_was_not_run_is_named(tool: str) -> None:
    assert tool in PAGE.split("## What was not compared")[1]


def test_every_command_is_one_of_a_script_that_takes_its_options() -> None:
    commands = re.findall(r"^python (benchmarks/.*)$", PAGE, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        script, *arguments = shlex.split(command)
        text = (ROOT / script).read_text("utf-8")
        for option in (each for each in arguments if each.startswith("--")):
            assert f'"{option}"' in text, f"{script}: {option}"
