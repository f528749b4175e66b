"""A contact sheet: one HTML file that opens from the disk, and thumbnails beside it.

It needs no network and no server. What is chosen there is saved as a file of decisions by id,
which ``elf curate --apply`` takes.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from elf.curation.proposals import Entry
from elf.curation.quality import FLAGS
from elf.files import write_atomic

SHEET, THUMBNAILS = "index.html", "thumbnails"
PARTS = Path(__file__).parent


def write_sheet(
    output: Path, root: Path, entries: Sequence[Entry], bad: dict[str, str], drops: Sequence[str]
) -> Path:
    """Write the sheet and return its path.

    Args:
        output: Its folder.
        root: Folder of the pictures; the sheet shows them from there in full size.
        entries: The pictures.
        bad: Files that are no pictures, and why.
        drops: The flags that propose to drop a picture.

    Raises:
        OSError: If the disk refuses.
    """
    data = {
        "root": str(root),
        "base": _address(output, root),
        "flags": FLAGS,
        "drops": list(drops),
        "pictures": _rows(entries),
        "bad": sorted(bad.items()),
        "links": {
            name: quote(os.fsencode(name)) for name in _names(entries) if not _is_unicode(name)
        },
    }
    page = (PARTS / "page.html").read_text("utf-8")
    for name in ("style.css", "script.js"):
        page = page.replace(f"/* {name} */", (PARTS / name).read_text("utf-8"))
    # in a script element nothing but "</script" and "<!--" could end or hide it
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    write_atomic(output / SHEET, page.replace("/* data */", text))
    return output / SHEET


def _rows(entries: Sequence[Entry]) -> list[list[Any]]:
    """Return what the script reads of each picture; ``script.js`` names the columns."""
    places = {entry.picture.id: place for place, entry in enumerate(entries)}
    rows = []
    for entry in entries:
        facts, verdict = entry.picture.facts, entry.verdict
        rows.append(
            [
                entry.picture.id,
                list(entry.picture.paths),
                facts.width,
                facts.height,
                facts.size,
                f"{facts.format} {facts.fidelity}" if facts.format == "JPEG" else facts.format,
                [FLAGS.index(flag) for flag in entry.flags],
                places[entry.leader],
                entry.alike,
                entry.reason or "",
                None if verdict is None else verdict.keep,
                verdict is not None and verdict.by_person,
            ]
        )
    return rows


def _names(entries: Sequence[Entry]) -> list[str]:
    return [entry.picture.paths[0] for entry in entries]


def _is_unicode(name: str) -> bool:
    """Whether a name is text; a lone surrogate in it stands for a byte that is none."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _address(output: Path, root: Path) -> str:
    """Return the address of the pictures' folder, as the sheet sees it."""
    try:
        path = os.path.relpath(root, output)
    except ValueError:  # another drive
        return root.absolute().as_uri() + "/"
    return quote(os.fsencode(Path(path).as_posix())) + "/"
