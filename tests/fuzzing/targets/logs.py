"""The logs beside pictures, which a stranger's folder may hold: manifest, decisions, journals."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from oracle import Check, refused
from PIL import Image
from spoiling import spoiled_lines

from elf.answers import AnswerLog
from elf.caching.fileindex import FileIndex
from elf.caching.tagcache import ResultCache
from elf.curation.verdicts import apply_file, read_verdicts
from elf.images import picture_id
from elf.labels import manifest
from elf.labels.journal import Journal
from elf.labels.manifest import LabelFolder
from elf.preparation.labelled import read_labelled
from elf.preparation.sets import PictureSet
from elf.rename import rename, undo

from . import join, split

LONGEST = 1 << 13
WORDS = (
    *(b'"id": "', b'"path": "', b'"tags": [', b'"caption": ', b'"attributes": {', b'"keep": '),
    *(b'"before_review"', b'"decision"', b'"text": "both"', b'"trigger"', b'"from"', b'"to"'),
    *(b'"renames": 2', b'"done": true', b'"asked"', b'"sha256"', b'"mtime"', b'"reason"'),
    *(b"null", b"NaN", b"\\ud83d", b"\\u0000", b"../", b"elf1", b"\xff\xff\xff\xff", b"}\n{"),
)
FILES = (
    "manifest.jsonl", "decisions.jsonl", ".journal-00000.jsonl", "quarantine.jsonl",
    ".quarantine-00000.jsonl", "answers.jsonl", ".answers.jsonl.00000", ".elf-rename.jsonl",
    "files-000.jsonl", "000.segment", "choices.jsonl", "text",
)  # fmt: skip
"""What an input may be, by its first byte: the last is a picture's text file."""
IDENTITY = {"model": {"name": "a", "sha256": "b"}, "adapter": None, "generation": {"seed": 0}}


def picture() -> bytes:
    """Return a picture whose labels the logs are of."""
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


KEY = picture_id(picture())
OTHER = "0123456789abcdef"


def record(key: str, path: str, **more: object) -> dict[str, object]:
    """Return a picture's record, as `elf predict` writes it."""
    attributes = {"text": "both", "trigger": "elf", "rating": {"general": 0.9}}
    words = {"tags": ["elf", "leaf"], "caption": "a leaf", "attributes": attributes}
    return {"id": key, "path": path, "sha256": key * 4, "width": 8, "height": 8, **words, **more}


def lines(*records: object) -> bytes:
    """Return records as lines."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


MANIFEST = lines(record(KEY, "a.png"), record(OTHER, "b/c.png"))


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield whole logs of each kind."""
    reviewed = record(KEY, "a.png")
    reviewed["attributes"] = {
        "text": "tags",
        "before_review": {"tags": ["elf"], "caption": None},
        "decision": {"keep": True, "edited": ["tags"]},
    }
    decisions = lines(
        {"id": KEY, "keep": False}, {"id": KEY, "tags": ["a"], "caption": "b"},
        {"id": OTHER, "keep": True, "by": "elf curate", "reason": "c"},
    )  # fmt: skip
    quarantine = lines({"path": "d.png", "reason": "damaged"}, {"path": "e.png", "reason": "x"})
    answers = lines({"id": "1", "asked": "0" * 16, "answer": "a", **IDENTITY})
    moves = lines(
        {"renames": 1}, {"from": "a.png", "to": "b.png"}, {"done": True}, {"renames": 1},
        {"from": "c.txt", "to": "d.txt"},
    )  # fmt: skip
    index = lines({"path": "/a", "size": 1, "mtime": 2, "sha256": "0" * 64})
    cache = folder / "seed-cache"
    shutil.rmtree(cache, ignore_errors=True)
    with ResultCache(cache) as results:
        results.put("0" * 64, b"payload")
    journal = lines(record(KEY, "a.png", caption="b"))
    segment = (cache / "000.segment").read_bytes()
    choices = lines({"id": KEY, "keep": False, "path": "a.png"})
    whole = [
        *(MANIFEST, decisions, journal, quarantine, quarantine, answers, answers, moves, index),
        *(segment, choices, b"elf, leaf, a hand's edit\n"),
    ]
    shutil.rmtree(cache)
    yield join(0, lines(reviewed, record(OTHER, "b/c.png")))
    yield from (join(kind, data) for kind, data in enumerate(whole))


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Spoil a line."""
    return data[:1] + spoiled_lines(data[1:], draw)


def hurry() -> None:
    """Sync no disks: all of the machine's would be, at each input."""
    manifest.sync_disks = lambda: None


def target(folder: Path) -> Check:
    """Return the check of a log."""
    root = folder / "logs"
    one = picture()

    def check(data: bytes) -> None:
        kind, text = split(data, len(FILES))
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        (root / "a.png").write_bytes(one)
        (root / "manifest.jsonl").write_bytes(MANIFEST)
        name = f"{KEY}.txt" if FILES[kind] == "text" else FILES[kind]
        (root / name).write_bytes(text)
        if name == ".elf-rename.jsonl":
            for act in (rename, undo):
                (root / name).write_bytes(text)
                with refused():
                    act(root)
        elif "answers" in name:
            answer(root / "answers.jsonl")
        elif name == "files-000.jsonl":
            FileIndex(root).sha256(root / "a.png")
        elif name == "000.segment":
            with ResultCache(root) as results:
                results.get("0" * 64)
                results.put("1" * 64, b"more")
        elif name == "choices.jsonl":
            with refused():
                apply_file(root, root / name)
        else:
            labels(root)

    return check


def answer(path: Path) -> None:
    """Go on with a file of answers."""
    with refused():
        log = AnswerLog(path, IDENTITY)
        try:
            log.take_in()
            log.write({"id": "2", "asked": "1" * 16, **IDENTITY})
            log.finish(["2", "1"], [])
        finally:
            log.close()


def labels(root: Path) -> None:
    """Do with a labels folder what the commands do."""
    with refused():
        read_verdicts(root)
    with refused():
        journal = Journal(root, 1)
        try:
            journal.write(record(KEY, "a.png", tags=["new"]))
        finally:
            journal.close()
    with refused():
        folder = LabelFolder(root)
        try:
            folder.write(record(KEY, "a.png", tags=["newer"]))
            folder.quarantine({"path": "f.png", "reason": "x"})
            folder.finish()
        finally:
            folder.close()
    with refused():
        for source in read_labelled(PictureSet(str(root), labels=str(root), caption="both"))[0]:
            with refused():
                source.location.read()
