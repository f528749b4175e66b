"""docs/doctor.md tells the truth about the report, its names and its commands."""

import re
import shlex
from pathlib import Path

import pytest

from elf import cli
from elf.doctor.command import make_parser
from elf.doctor.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text("utf-8")
NAMES = [name for family in FAMILIES.values() for name in family.checks]


def test_the_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    """As they stand, with the quick families alone."""
    commands = [shlex.split(block) for block in re.findall(r"```bash\n(.*?)\n```", PAGE, re.S)]
    assert len(commands) == 3
    for _, *arguments in commands:
        status = 0
        try:
            cli.run([*arguments, "--only=storage", "--only=weights"])
        except SystemExit as stop:
            status = int(str(stop.code))
        out = capsys.readouterr().out
        assert status == ("--config" in arguments), "its data is not here"
        assert out.startswith("{" if "--json" in arguments else "good    disk runs")


def test_the_table_and_the_picture_show_every_line() -> None:
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.M)
    assert [name for row in table for name in re.findall(r"`(.*?)`", row)] == NAMES
    shown = re.search(r"```\n(good .*?)```", PAGE, re.S)
    assert shown is not None
    lines = [line for line in shown[1].splitlines() if not line.startswith(" ")]
    assert [line[8:24].strip() for line in lines[:-1]] == [
        re.sub(r"[._]", " ", name) for name in NAMES
    ]
    for name in ("config.models", "config.data"):
        assert f"`{name}`" in PAGE


def test_options_and_defaults() -> None:
    known = {string for action in make_parser()._actions for string in action.option_strings}
    named = set(re.findall(r"(?<!`hf )(--[a-z_]+)", PAGE)) - {"--local"}
    assert named and named <= known
    default = make_parser().get_default("timeout")
    assert f"`--timeout` seconds ({default:g} if nothing is said)" in " ".join(PAGE.split())
    for path in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
