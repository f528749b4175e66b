"""The records of pictures, as they stand line by line in a manifest and in journals."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from elf.errors import ElfError
from elf.files import is_text, parse_line
from elf.images import is_picture_id

MANIFEST = "manifest.jsonl"
QUARANTINE = "quarantine.jsonl"
JOURNALS = ".journal-*.jsonl"

Record = dict[str, Any]
Place = tuple[int, int, int]
"""Where a record stands: the journal's number, the position and the length of its line."""
_LINE = re.compile(rb'\{"id": "([0-9a-f]{16})", .*\}\n', re.DOTALL)


def labelled_ids(folder: str | Path) -> set[str]:
    """Return the ids that a labels folder holds; a torn last line does not count."""
    paths = [Path(folder) / MANIFEST, *Path(folder).glob(JOURNALS)]
    return {key for path in paths for key, _ in read_lines(path)}


def read_lines(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield each record's id and its line, unread beyond that; a torn last line is left out.

    Raises:
        ElfError: If a line is damaged or has no proper id, with its number.
    """
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if match := _LINE.fullmatch(line):
                yield match[1].decode(), line
                continue
            record = parse_line(line)
            if record is None and not line.endswith(b"\n"):
                return
            if record is None:
                raise ElfError(
                    f"{path}, line {number}: not a JSON object; mend or delete that line"
                )
            if not is_picture_id(record.get("id")):
                raise ElfError(f"{path}, line {number}: no `id` of 16 hex digits; mend that line")
            yield record["id"], line if line.endswith(b"\n") else line + b"\n"


def read_records(path: str | Path) -> Iterator[Record]:
    """Yield a manifest's records; a torn last line is left out.

    Raises:
        ElfError: If a line is damaged or has no proper id, with its number.
    """
    for number, (key, line) in enumerate(read_lines(path), 1):
        record = parse_line(line)
        if record is None or record.get("id") != key:
            raise ElfError(f"{path}, line {number}: not a JSON object; mend or delete that line")
        if wrong := problem(record):
            raise ElfError(f"{path}, line {number}: {wrong}; mend or delete that line")
        yield record


def problem(record: Record) -> str:
    """Return what is wrong with a picture's record; empty if a label can be made of it.

    A manifest may have been edited by hand, or be a stranger's.
    """
    attributes = record.get("attributes", {})
    if not isinstance(attributes, dict):
        return "`attributes` must be an object"
    for key in ("decision", "before_review"):
        if not isinstance(attributes.get(key, {}), dict):
            return f"`attributes.{key}` must be an object"
    if not is_text(attributes.get("trigger") or ""):
        return "`attributes.trigger` must be a string"
    before = attributes.get("before_review")
    return _words(record, "") or (_words(before, "attributes.before_review.") if before else "")


def _words(record: Record, where: str) -> str:
    tags = record.get("tags")
    if not isinstance(tags, list) or not all(map(is_text, tags)):
        return f"`{where}tags` must be a list of strings"
    if not is_text(record.get("caption") or ""):
        return f"`{where}caption` must be a string or null"
    return ""


class JournalRecords:
    """The records of some journals, each read from its file when it is asked for.

    Attributes:
        places: Where a picture's record stands, by its id: of copies of a picture that two
            processes labelled, that of the first by path.
    """

    def __init__(self, journals: Sequence[Path]) -> None:
        self.places: dict[str, Place] = {}
        self._open = contextlib.ExitStack()
        self._files: list[BinaryIO] = []
        with self._open:
            for number, journal in enumerate(journals):
                self._files.append(self._open.enter_context(open(journal, "rb")))
                position = 0
                for key, line in read_lines(journal):
                    place = (number, position, len(line))
                    position += len(line)
                    if key in self.places:
                        place = min(self.places[key], place, key=self._path)
                    self.places[key] = place
            self._open = self._open.pop_all()  # all is well: they stay open

    def merged_into(self, manifest: Path) -> Iterator[bytes]:
        """Yield a manifest's lines with these in their old ones' places, new ones behind."""
        new = dict(self.places)
        for key, line in read_lines(manifest):
            yield self._line(new.pop(key)) if key in new else line
        for _, _, place in sorted((self._path(place), key, place) for key, place in new.items()):
            yield self._line(place)

    def _line(self, place: Place) -> bytes:
        number, position, length = place
        self._files[number].seek(position)
        return self._files[number].read(length).rstrip(b"\n") + b"\n"

    def _path(self, place: Place) -> str:
        return str((parse_line(self._line(place)) or {}).get("path", ""))

    def __enter__(self) -> "JournalRecords":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
