"""Labels that were edited after ``elf prepare``: a training goes on with what was prepared."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from elf.errors import ElfError
from elf.labels.records import MANIFEST
from elf.preparation.captionoptions import CaptionKind
from elf.preparation.labelled import labelled_caption, read_manifest
from elf.preparation.prepared import REMEDY, Prepared
from elf.preparation.sets import PictureSet
from elf.preparation.sources import Unusable


def notes_of_edits(prepared: Prepared, sets: Sequence[PictureSet]) -> list[str]:
    """Return a line for each set whose labels say something else than its shards.

    Args:
        prepared: What is trained.
        sets: The sets that it was made of; those whose labels are not on this machine are left out.
    """
    notes = []
    examples = [*prepared.train, *prepared.held_out, *prepared.unrelated]
    for number, each in enumerate(sets):
        if each.tars is not None or not each.labels or not (Path(each.labels) / MANIFEST).exists():
            continue
        captions = {e.id: e.captions.text for e in examples if e.set == number}
        try:
            edited = edited_since(Path(each.labels), each.caption or "tags", captions)
        except ElfError:  # `elf prepare` says what is wrong with them
            continue
        if edited:
            notes.append(
                f"note: {len(edited)} of the labels in {each.labels} were edited after `elf "
                f"prepare`, {edited[0]}.txt among them, and are trained as they were; {REMEDY} to "
                "take them in"
            )
    return notes


def edited_since(labels: Path, kind: CaptionKind, prepared: Mapping[str, str]) -> list[str]:
    """Return the ids whose label is another than the caption prepared of them, or is gone.

    Args:
        labels: Their folder.
        kind: Of caption.
        prepared: The captions in the shards, by id.

    Raises:
        ElfError: If the folder cannot be read.
    """
    changed = []
    for record in read_manifest(labels):
        if record["id"] not in prepared:
            continue
        try:
            text: str | None = labelled_caption(labels, record, kind).text
        except Unusable:
            text = None
        if text != prepared[record["id"]]:
            changed.append(record["id"])
    return changed
