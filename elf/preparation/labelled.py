"""Pictures of a folder, with captions from a labels folder that `elf predict` wrote."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from elf.counted import counted
from elf.errors import ElfError
from elf.files import iterate_log, read_log
from elf.images import LabelledPictures, is_picture_id, picture_id
from elf.labels.decisions import DECISIONS, apply_decision, is_left_out, read_decisions
from elf.labels.records import MANIFEST, QUARANTINE, Record, problem
from elf.preparation.captionoptions import CaptionKind
from elf.preparation.captions import without_sentence
from elf.preparation.masks import Masks
from elf.preparation.sets import PictureSet
from elf.preparation.sources import Dropped, Found, Location, Source, Unusable


def read_labelled(each: PictureSet, number: int = 0) -> Found:
    """Return the labelled pictures of a folder, sorted by id, and what is left out already here.

    Args:
        each: The set; its labels' paths are relative to its pictures' folder.
        number: Of the set.

    Raises:
        ElfError: If nothing is labelled, or the manifest is damaged before its last line.
    """
    pictures, labels = Path(each.pictures or ""), Path(each.labels or "")
    records = read_manifest(labels)
    if not pictures.is_dir():
        raise ElfError(
            f"data.pictures: no folder {pictures}, of which {labels} is; give the folder that was "
            "labelled there, or in its set"
        )
    present = LabelledPictures(pictures)
    masks = Masks(each, number)
    owners = {mask: name for name, mask in masks.beside.items()}
    replaced = _replaced(records, pictures)
    sources: dict[str, Source] = {}
    dropped = []
    for record in records:
        key, path = record["id"], record["path"]
        parts = PurePosixPath(path)
        try:
            if parts.is_absolute() or ".." in parts.parts:
                raise Unusable("its path leads out of the pictures' folder")
            now = present.path("" if key in replaced else path, key)
            if key in replaced and now in ("", path):
                raise Unusable("another picture has its name now")
            if now in owners:
                raise Unusable(f"the mask of {owners[now]}")
            words = labelled_caption(labels, record, each.caption or "tags")
        except Unusable as error:
            dropped.append(Dropped(path, str(error), number))
            continue
        location = Location(pictures / now)
        mask = masks.of(now, key)
        sources[key] = Source(
            key, now, words.text, location, number, mask, words.sentence, words.trigger
        )
    labelled = {record["path"] for record in records}
    labelled |= {source.path for source in sources.values()}
    ids = {record["id"] for record in records}
    refused = {
        str(each.get("path")): each.get("reason") for each in iterate_log(labels / QUARANTINE)
    }
    for path in masks.pictures:
        if path not in labelled:
            known = _id_of(pictures / path) in ids
            why = f"not labelled, {refused[path]}" if path in refused else "not labelled"
            dropped.append(Dropped(path, "the same picture twice" if known else why, number))
    found = [sources[key] for key in sorted(sources)]
    masks.require_use(found, number)
    return found, dropped


def read_manifest(labels: Path) -> list[Record]:
    """Return the records of a labels folder.

    Raises:
        ElfError: If there are none, one has no id or path, or a decision is not in them yet.
    """
    manifest = labels / MANIFEST
    remedy = "run `elf predict` on the pictures first"
    if not manifest.exists():
        raise ElfError(f"{manifest} is missing: {remedy}")
    records = read_log(manifest)
    if not records:
        raise ElfError(f"{manifest} is empty, so nothing is labelled: {remedy}")
    for line, record in enumerate(records, 1):
        if not is_picture_id(record.get("id")) or not isinstance(record.get("path"), str):
            raise ElfError(f"{manifest}, line {line}: no id or no path; delete that line")
        if wrong := problem({"tags": [], **record}):
            raise ElfError(f"{manifest}, line {line}: {wrong}; mend or delete that line")
    _refuse_pending(labels, records)
    return records


def _refuse_pending(labels: Path, records: Sequence[Record]) -> None:
    """Refuse labels from before a decision: what was dropped would be trained with.

    Decisions that are written by hand, or by an App that was killed, come into the labels when
    these are opened for writing the next time.
    """
    decisions = read_decisions(labels)
    pending = [
        record["id"]
        for record in records
        if _label(apply_decision({"tags": [], **record}, decisions.get(record["id"])))
        != _label(record)
    ]
    if pending:
        raise ElfError(
            f"{labels / DECISIONS}: {counted(len(pending), 'decision is', 'decisions are')} not in "
            f"the labels yet (the first is of {pending[0]}): run `elf predict` again, which brings "
            "them in"
        )


def _label(record: Record) -> tuple[Any, Any]:
    return record.get("tags") or [], record.get("caption")


def _replaced(records: Sequence[Record], pictures: Path) -> set[str]:
    """Return the ids of records whose picture's name another labelled one has now."""
    count = Counter(record["path"] for record in records)
    several = [record for record in records if count[record["path"]] > 1]
    now = {path: _id_of(pictures / path) for path in {record["path"] for record in several}}
    ids = {record["id"] for record in several}
    return {r["id"] for r in several if now[r["path"]] in ids and r["id"] != now[r["path"]]}


def _id_of(path: Path) -> str:
    """Return a picture's id, empty if it cannot be read."""
    try:
        return picture_id(path.read_bytes())
    except (OSError, ValueError):  # no file's name holds a NUL or half a character
        return ""


class Words(NamedTuple):
    """A caption, the sentence in it (or beside it, if one of the two is drawn), and the trigger."""

    text: str
    sentence: str = ""
    trigger: str = ""


def labelled_caption(labels: Path, record: Record, kind: CaptionKind) -> Words:
    """Return a caption in one line; the label file counts, for that is what a reviewer edits.

    Raises:
        Unusable: If there is no such text.
    """
    if is_left_out(record):
        raise Unusable("dropped by a decision")
    label = labels / f"{record['id']}.txt"
    tags = one_line(label.read_bytes(), label.name) if label.exists() else ""
    sentence = one_line(str(record.get("caption") or ""), "in the manifest")
    trigger = one_line(str(record.get("attributes", {}).get("trigger") or ""), "in the manifest")
    # the rules may have written the sentence into the label already
    rest = without_sentence(tags, sentence) if sentence else None
    if kind == "either":
        tags = tags if rest is None else rest
    wanted = {"tags": [tags], "sentence": [sentence]}.get(kind, [tags, sentence])
    if kind == "both" and sentence and sentence in tags:
        wanted = [tags]
    if not all(wanted):
        raise Unusable(f"no caption of kind {kind!r}")
    if kind == "either":
        return Words(tags, sentence, trigger)
    text = ", ".join(wanted)
    inside = kind == "both" or rest is not None
    return Words(text, sentence if inside and kind != "sentence" else "", trigger)


def one_line(text: bytes | str, name: str) -> str:
    """Return the text of a caption in one line.

    Raises:
        Unusable: If it is not UTF-8.
    """
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        plain.encode()  # JSON may hold half a character ("\\ud83d")
    except UnicodeError:
        raise Unusable(f"its caption {name} is not UTF-8") from None
    return " ".join(plain.split())
