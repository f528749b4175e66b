"""The process of one family of checks: it prints what it found as JSON."""

import importlib
import json
import os
from typing import Any

from elf.doctor.families import FAMILIES
from elf.doctor.finding import Finding, broken, first_line
from elf.doctor.needs import Needs

PROGRAM = (
    "import json, sys; path, *rest = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from elf.doctor.child import main; main(*rest)"
)
"""What the process runs; it finds its modules where the one that started it does."""


def main(family: str, needs: dict[str, Any]) -> None:
    """Print what a family finds, whatever it raises; what libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as report:
        os.dup2(2, 1)
        found = examine(family, Needs(**needs))
        json.dump([[each.check, each.as_dict()] for each in found], report)


def examine(family: str, needs: Needs) -> list[Finding]:
    """Return what a family finds; a check that raises is a line itself."""
    try:
        found: list[Finding] = importlib.import_module(FAMILIES[family].module).check(needs)
    except Exception as error:
        return failed(family, f"{type(error).__name__}: {first_line(error)}", needs)
    return found


def failed(family: str, reason: str, needs: Needs, broken_at_all: bool = True) -> list[Finding]:
    """Return a family's lines where it could not be tried.

    Args:
        family: Its name.
        reason: Why not.
        needs: What a config needs.
        broken_at_all: Whether that means that something does not work.
    """
    _, checks, with_config, try_it, *_ = FAMILIES[family]
    first, *others = checks + with_config * needs.config
    found = broken(first, f"could not be tried: {reason}", f"see what `{try_it}` says")
    if not broken_at_all:
        found = Finding(first, "note", found.found, found.do)
    return [
        found,
        *(Finding(each, "note", f"not known: see {first}", found.do) for each in others),
    ]
