"""Text files that a person edited: what stands there is a reviewer's decision, and is not lost.

A text is an edit if it is neither what its record in the manifest gives nor what the new record
gives. So that no interruption can make one, a new record of a labelled picture is in a journal,
and that on the disk, before its text is written: :class:`elf.labels.manifest.LabelFolder`
completes such a text when it is opened.
"""

import io
from pathlib import Path

from elf.errors import ElfError
from elf.files import parse_line, read_small
from elf.labels.decisions import DECISIONS, Decision, add_decisions, apply_decision, is_left_out
from elf.labels.labeltext import Label, label_text, torn
from elf.labels.records import Record, problem, read_lines

Places = dict[str, tuple[int, int]]
"""By id, the position and the length of a record's line, in bytes."""


class OldRecords:
    """The manifest's records by id, each read from the file when it is asked for.

    Args:
        path: The manifest; nobody rewrites it before :meth:`forget` is called.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: Places | None = None
        self._file: io.FileIO | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._find()

    def line(self, key: str) -> bytes:
        """Return a picture's record as it stands in the file; empty if the manifest has none."""
        if key not in self:
            return b""
        position, length = self._find()[key]
        self._file = self._file or io.FileIO(self.path)
        self._file.seek(position)
        return self._file.read(length)

    def get(self, key: str) -> Record | None:
        """Return a picture's record; none if the manifest has none.

        Raises:
            ElfError: If no label can be made of it.
        """
        return checked_record(self.line(key), self.path, key)

    def know(self, places: Places) -> None:
        """Take it from somebody who read the file where each record stands."""
        self._places = places

    def forget(self) -> None:
        """Close the file, and look again when something is asked for: it is to be rewritten."""
        self._places = None
        if self._file is not None:
            self._file.close()
        self._file = None

    def _find(self) -> Places:
        if self._places is None:
            self._places = {}
            position = 0
            for key, line in read_lines(self.path):
                self._places[key] = (position, len(line))
                position += len(line)
        return self._places


def checked_record(line: bytes, path: Path, key: str) -> Record | None:
    """Return the record of a picture; none if its line is not one JSON object.

    Args:
        line: Of a file.
        path: That file, for the message.
        key: The picture's id.

    Raises:
        ElfError: If no label can be made of it.
    """
    record = parse_line(line)
    if record is not None and (wrong := problem(record)):
        raise ElfError(f"{path}: {key}: {wrong}; mend or delete that line")
    return record


class HandEdits:
    """The decisions in force in a labels folder, to which edited text files add.

    Args:
        folder: Of the labels.
        old: The manifest's records.
        decisions: In force, by id; added to.

    Attributes:
        count: Of edits found so far.
    """

    def __init__(self, folder: Path, old: OldRecords, decisions: dict[str, Decision]) -> None:
        self.folder = folder
        self.old = old
        self.decisions = decisions
        self.count = 0

    def label(self, record: Record, old: Record | None = None) -> Label:
        """Return a record as the reviewer wants it; an edit of its text file is noted first.

        Args:
            record: The new one.
            old: The one that the text file was made of, if it is at hand.

        Raises:
            ElfError: If the text file is no UTF-8.
        """
        key = record["id"]
        wanted = apply_decision(record, self.decisions.get(key))
        text, held = label_text(wanted).encode(), self._held(key)
        if not held or held == text:
            return Label(wanted, text, held or None)
        if old is None:
            line = self.old.line(key)
            if gives(line, held):  # nearly every text is just what its record gave
                return Label(wanted, text, held)
            old = checked_record(line, self.old.path, key)
        if old is None or held == label_text(old).encode():
            return Label(wanted, text, held if old else None)
        found = self._read(key, held)
        if not found or same_text(found, text.decode()) or same_text(found, label_text(old)):
            return Label(wanted, text, None)
        if is_left_out(old) and is_left_out(wanted):
            return Label(wanted, text, None)  # a file that a kill kept from being removed
        edit = edit_of(old, found)
        add_decisions(self.folder, [{"id": key} | edit])
        self.decisions[key] = self.decisions.get(key, {}) | edit
        self.count += 1
        wanted = apply_decision(record, self.decisions[key])
        return Label(wanted, label_text(wanted).encode(), None)

    def decided(self, record: Record, old: Record | None = None) -> Record:
        """Return the record alone of what :meth:`label` returns."""
        return self.label(record, old).record

    def completed(self, record: Record) -> Record:
        """Do so for a record from a journal: an interruption may have torn its text."""
        key = record["id"]
        old, held = self.old.get(key), self._held(key)
        texts = [label_text(entry).encode() for entry in (old, record) if entry is not None]
        if held and len(texts) == 2 and torn(held, *texts):
            return apply_decision(record, self.decisions.get(key))
        return self.decided(record, old)

    def _held(self, key: str) -> bytes:
        """Return a text file's content; empty if there is none, or if a power loss left zeros."""
        try:
            content = read_small(f"{self.folder}/{key}.txt")
        except FileNotFoundError:
            return b""
        return b"" if b"\0" in content else content

    def _read(self, key: str, held: bytes) -> str:
        try:
            return held.decode("utf-8-sig")
        except UnicodeDecodeError:
            path = f"{self.folder}/{key}.txt"
            raise ElfError(f"{path}: no UTF-8; save it as UTF-8, or delete it") from None

    def tell(self) -> None:
        """Say how many edits were found, if there were any, and count anew."""
        if self.count:
            print(
                f"{self.count} text files were edited by hand: they stay, and are noted in "
                f"{self.folder}/{DECISIONS}"
            )
        self.count = 0


def gives(line: bytes, text: bytes) -> bool:
    """Whether a record gives a text, by its line: quick, and False where it takes a closer look.

    Searching the line as Elf writes it takes a tenth of what parsing it does.
    """
    escaped = text[:-1].replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    tags = b'"%b"' % escaped.replace(b", ", b'", "')
    return (
        b'"tags": [%b], ' % tags in line
        and b'""' not in tags  # an empty tag is not written
        and text.endswith(b"\n")
        and b'"text": "tags"' in line
        and b'"before_review"' not in line
    )


def parts(text: str) -> list[str]:
    """Return what stands between commas, without outer and double spaces."""
    return [part for part in (" ".join(part.split()) for part in text.split(",")) if part]


def same_text(one: str, other: str) -> bool:
    """Whether two texts say the same: spaces and line ends do not count."""
    return parts(one) == parts(other)


def edit_of(record: Record, text: str) -> Decision:
    """Return the decision that an edited text stands for: the label then gives that text again.

    Args:
        record: The one that the text was made of; its ``attributes.text`` says how.
        text: As it is now.
    """
    attributes = record.get("attributes", {})
    kind = attributes.get("text", "tags")
    said, found = parts(str(record.get("caption") or "")), parts(text)
    if not said or kind == "tags":
        return {"tags": parts(text.replace("\n", ","))}
    if kind == "both":
        return _of_both(record["tags"], said, found)
    first = [trigger] if (trigger := attributes.get("trigger", "")) else []
    if found[: len(first)] == first and found[len(first) :]:
        return {"caption": ", ".join(found[len(first) :])}
    return {"tags": found, "caption": ""}  # without the trigger: tags are written as they are


def _of_both(tags: list[str], said: list[str], found: list[str]) -> Decision:
    if found[-len(said) :] == said:
        return {"tags": found[: -len(said)]}
    count = next((n for n, part in enumerate(found) if part not in tags), len(found))
    edit: Decision = {"caption": ", ".join(found[count:])}
    return edit if found[:count] == tags else {"tags": found[:count]} | edit
