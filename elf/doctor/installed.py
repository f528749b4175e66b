"""Python, and the packages that Elf needs, by what is written about them."""

import platform
import struct
import sys
from collections.abc import Callable, Iterable
from importlib import metadata

from elf.doctor.finding import Finding, broken, good, note
from elf.doctor.needs import Needs

OLDEST_PYTHON = (3, 11)
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")

Version = Callable[[str], str | None]


def check(_: Needs) -> list[Finding]:
    """Look at this Python and at what is installed for it."""
    isolated = sys.prefix != sys.base_prefix
    python = judge_python(sys.version_info[:3], 8 * struct.calcsize("P"), isolated)
    try:
        wanted = metadata.requires("elf") or []
    except metadata.PackageNotFoundError:
        return [python, _not_installed()]
    return [python, judge_packages(wanted, installed_version)]


def judge_python(version: tuple[int, ...], bits: int, isolated: bool) -> Finding:
    """Say whether this Python will do.

    Args:
        version: As ``sys.version_info``.
        bits: Of its pointers.
        isolated: Whether it is a virtual environment's.
    """
    number = ".".join(map(str, version))
    facts = {"version": number, "bits": bits, "isolated": isolated, "system": platform.platform()}
    if version[:2] < OLDEST_PYTHON or bits != 64:
        return broken(
            "python",
            f"{number}, {bits} bit; Elf needs 3.11 or newer, of 64 bit",
            "install Python 3.11 or newer of 64 bit, then `python -m venv .venv`",
            **facts,
        )
    if not isolated:
        return note(
            "python",
            f"{number}, in no virtual environment: other programs' packages may replace Elf's",
            "python -m venv .venv, activate it and install Elf there",
            **facts,
        )
    return good("python", f"{number}, {bits} bit, in a virtual environment", **facts)


def judge_packages(wanted: Iterable[str], version: Version) -> Finding:
    """Say which packages are missing or too old.

    Args:
        wanted: Requirements as in a package's metadata; those of extras do not count.
        version: Of an installed package; None if it is not.
    """
    from packaging.requirements import Requirement  # what pip itself reads them with

    needed = [Requirement(line) for line in wanted]
    needed = [each for each in needed if each.marker is None or each.marker.evaluate()]
    wrong = []
    for each in needed:
        there = version(each.name)
        if there is None:
            wrong.append((each, f"{each.name} is missing"))
        elif not each.specifier.contains(there, prereleases=True):
            wrong.append((each, f"{each.name} {there} is not {each.specifier}"))
    found = {each.name: version(each.name) for each in needed}
    if wrong:
        names = " ".join(f"'{each.name}{each.specifier}'" for each, _ in wrong)
        said = "; ".join(reason for _, reason in wrong)
        return broken("packages", said, f"pip install --upgrade {names}", versions=found)
    if all(version(name) for name in ONNXRUNTIMES):
        kept = next((each.name for each in needed if each.name in ONNXRUNTIMES), ONNXRUNTIMES[1])
        return broken(
            "packages",
            "onnxruntime and onnxruntime-gpu share one folder: which of them works is chance",
            f"pip uninstall --yes {' '.join(ONNXRUNTIMES)}, then pip install {kept}",
            versions=found,
        )
    return good("packages", f"{len(needed)}, none missing or too old", versions=found)


def installed_version(name: str) -> str | None:
    """Return a package's version; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _not_installed() -> Finding:
    return note(
        "packages",
        "Elf runs from its folder without being installed: what it needs is not written anywhere",
        "pip install -e . in Elf's folder",
        versions={},
    )
