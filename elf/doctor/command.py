"""``elf doctor``: what is installed, what works, and the command that mends what does not.

Nothing but the standard library is imported in this process, so that it answers where torch, or
whatever else, cannot be imported.
"""

import argparse
import json
import sys
from typing import NoReturn

from elf import __version__
from elf.doctor.examination import examine_all
from elf.doctor.families import FAMILIES
from elf.doctor.lines import make_lines, verdict
from elf.doctor.needs import read_needs
from elf.errors import ElfError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as one line."""
        raise ElfError(f"doctor: {message}; `elf doctor --help` lists the options")


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = _Parser(
        prog="elf doctor",
        description="Try what Elf needs, and say what to do about what does not work.",
        epilog="Exit status: 0 if nothing is broken, 1 if something is, 2 for a wrong option.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="a config, or several: what they need must be there, too",
    )
    parser.add_argument("--json", action="store_true", help="print the same as data")
    parser.add_argument(
        "--only", action="append", choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES)
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=180.0,
        metavar="SECONDS",
        help="that a check may take at most (default: 180)",
    )
    return parser


def main(arguments: list[str]) -> None:
    """``elf doctor [--config FILE] [--json]``: print a line for each check.

    Raises:
        ElfError: If an option is wrong, or a config cannot be read.
        SystemExit: With 1 if something is broken.
    """
    options = make_parser().parse_args(arguments)
    if not options.timeout > 0:
        raise ElfError(f"--timeout: {options.timeout:g} must be above 0, in seconds")
    needs = read_needs(options.config)
    families = [name for name in FAMILIES if not options.only or name in options.only]
    names = [
        check
        for name in families
        for check in FAMILIES[name].checks + FAMILIES[name].with_config * needs.config
    ]
    found, lines = [], make_lines(names)
    for finding in examine_all(families, needs, options.timeout):
        found.append(finding)
        if not options.json:
            print("\n".join(lines.of(finding)), flush=True)
    works = not any(each.state == "broken" for each in found)
    if options.json:
        checks = {each.check: each.as_dict() for each in found}
        json.dump({"elf": __version__, "works": works, "checks": checks}, sys.stdout, indent=2)
        print()
    else:
        print(verdict(found))
    if not works:
        raise SystemExit(1)
