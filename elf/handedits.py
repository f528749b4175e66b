"""Text files that a person edited: what stands there is a reviewer's decision, and is not lost.

A text is an edit if it is neither what its record in the manifest gives nor what the new record
gives. So that a kill cannot make one, a new record of a labelled picture is in a journal before
its text is written: :class:`elf.manifest.LabelFolder` completes such a text when it is opened.
Only a power loss may leave a text whose record is lost; it then counts as an edit, and is told.
"""

import io
from pathlib import Path

from elf.decisions import Decision, Record, add_decisions, apply_decision, is_left_out
from elf.errors import ElfError
from elf.files import parse_line
from elf.labeltext import label_text


class OldRecords:
    """The manifest's records by id, each read from the file when it is asked for.

    Args:
        path: The manifest; nobody rewrites it meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._find()

    def get(self, key: str) -> Record | None:
        """Return a picture's record; none if the manifest has none."""
        if key not in self:
            return None
        position, length = self._find()[key]
        with open(self.path, "rb") as file:
            file.seek(position)
            return parse_line(file.read(length))

    def forget(self) -> None:
        """Look again: the manifest was rewritten."""
        self._places = None

    def _find(self) -> dict[str, tuple[int, int]]:
        if self._places is None:
            self._places = {}
            position = 0
            with open(self.path, "rb") if self.path.exists() else io.BytesIO() as file:
                for line in file:
                    known = line.startswith(b'{"id": "')
                    key = line[8:24].decode() if known else (parse_line(line) or {}).get("id", "")
                    self._places[key] = (position, len(line))
                    position += len(line)
        return self._places


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

    def decided(self, record: Record, old: Record | None = None) -> Record:
        """Return a record as the reviewer wants it; an edit of its text file is noted first.

        Args:
            record: The new one.
            old: The one that the text file was made of, if it is at hand.

        Raises:
            ElfError: If the text file is no UTF-8.
        """
        key = record["id"]
        wanted = apply_decision(record, self.decisions.get(key))
        held, text = self._held(key), label_text(wanted)
        if not held or held == text:
            return wanted
        old = old or self.old.get(key)
        before = held if old is None else label_text(old)
        # spaces are compared last: nearly every text is just what its record gave
        if old is None or held == before or same_text(held, text) or same_text(held, before):
            return wanted
        if is_left_out(old) and is_left_out(wanted):
            return wanted  # a file that a kill kept from being removed
        edit = edit_of(old, held)
        add_decisions(self.folder, [{"id": key} | edit])
        self.decisions[key] = self.decisions.get(key, {}) | edit
        self.count += 1
        return apply_decision(record, self.decisions[key])

    def _held(self, key: str) -> str:
        """Return a text file's content; empty if there is none, or if a power loss left zeros."""
        path = f"{self.folder}/{key}.txt"
        try:
            with open(path, "rb") as file:
                text = file.read().decode("utf-8-sig")
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            raise ElfError(f"{path}: no UTF-8; save it as UTF-8, or delete it") from None
        return "" if "\0" in text else text

    def tell(self) -> None:
        """Say how many edits were found, if there were any, and count anew."""
        if self.count:
            print(
                f"{self.count} text files were edited by hand: they stay, and are noted in "
                f"{self.folder}/decisions.jsonl"
            )
        self.count = 0


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
