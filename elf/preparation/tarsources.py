"""Pictures of tars that others wrote: the webdataset library, img2dataset, plain ``tar``.

A tar is indexed (:func:`elf.preparation.shards.scan`), never unpacked. A picture's caption is the
``.txt`` with the same key, or else the ``.json``'s; or labels decide, which know pictures by their
content.
"""

import glob
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from elf.errors import ElfError
from elf.images import MASK, BadImage, picture_id
from elf.images import SUFFIXES as PICTURES
from elf.preparation.captioned import own_caption
from elf.preparation.labelled import Words, labelled_caption, one_line, read_manifest
from elf.preparation.sets import PictureSet
from elf.preparation.shards import Entry, scan
from elf.preparation.sources import Dropped, Found, Location, Mask, Source, Unusable, without_twins

CAPTION = "caption"  # the key of img2dataset's .json
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C:\ is a disk


def read_tars(each: PictureSet, number: int, threads: ThreadPoolExecutor) -> Found:
    """Return the pictures of a set's tars, sorted by id, and what is left out already here.

    Args:
        each: The set.
        number: Of the set.
        threads: Read the pictures.

    Raises:
        ElfError: If there is no tar or no picture in them, or a tar is cut, damaged or hostile.
    """
    labels = Path(each.labels) if each.labels else None
    records = {record["id"]: record for record in read_manifest(labels)} if labels else {}
    results: list[Source | Dropped] = []
    for tar in tqdm(find_tars(each.tars or [], number), "tars", unit="tar", disable=None):
        look = partial(_look, tar=tar, each=each, number=number, labels=labels, records=records)
        try:
            entries = scan(tar).entries
        except OSError as error:
            raise ElfError(f"{tar} could not be read ({error.strerror or error})") from None
        results += threads.map(look, entries)
    if not results:
        raise ElfError(f"data.sets[{number}].tars: no pictures in {each.tars}")
    return without_twins(results)


def find_tars(patterns: str | list[str], number: int) -> list[Path]:
    """Return the tars that paths and globs name, each once, sorted.

    Raises:
        ElfError: If one names none, or is a URL.
    """
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if _URL.match(pattern):
            raise ElfError(
                f"data.sets[{number}].tars: {pattern!r} is no path; only tars on this machine's "
                "disks are read, and no command is run: fetch them first"
            )
        paths = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
        paths = [path for path in paths if Path(path).is_file()]
        if not paths:
            is_folder = Path(pattern).is_dir()
            hint = (
                f"for all tars of that folder give {pattern}/*.tar" if is_folder else "give others"
            )
            raise ElfError(f"data.sets[{number}].tars: no file fits {pattern!r}; {hint}")
        found.update(paths)
    return [Path(path) for path in sorted(found)]


def _look(
    entry: Entry,
    tar: Path,
    each: PictureSet,
    number: int,
    labels: Path | None,
    records: dict[str, dict[str, Any]],
) -> Source | Dropped:
    # for messages: a stranger chose the key, down to commands for the terminal
    path = "".join(c if c.isprintable() else "?" for c in f"{tar.name}/{entry.key}")
    try:
        location = _picture(entry, tar)
        key = picture_id(location.read())
        if labels is None:
            words = Words(own_caption(_text(entry, tar), each))
        elif key in records:
            words = labelled_caption(labels, records[key], each.caption or "tags")
        else:
            raise Unusable("not labelled")
        mask = _mask(entry, tar, path, each)
        return Source(key, path, words.text, location, number, mask, words.sentence, words.trigger)
    except (BadImage, Unusable) as error:
        return Dropped(path, str(error), number)


def _picture(entry: Entry, tar: Path) -> Location:
    """Return where an entry's one picture lies."""
    suffixes = [suffix for suffix in entry.members if f".{suffix}" in PICTURES]
    if len(suffixes) != 1:
        # webdataset's rule: a key ends at its first dot, so my.photo.jpg has the key `my`
        have = ", ".join(entry.members) or "nothing"
        raise Unusable(f"{len(suffixes)} pictures under one key (it has {have})")
    return Location(tar, *entry.members[suffixes[0]])


def _mask(entry: Entry, tar: Path, path: str, each: PictureSet) -> Mask | None:
    if where := entry.members.get(MASK[1:]):
        return Mask(path + MASK, Location(tar, *where))
    return Mask(path, _picture(entry, tar), alpha=True) if each.alpha_mask else None


def _text(entry: Entry, tar: Path) -> str:
    if "txt" in entry.members:
        return one_line(Location(tar, *entry.members["txt"]).read(), f"{entry.key}.txt")
    text = entry.meta.get(CAPTION)
    return one_line(text, f"{entry.key}.json") if isinstance(text, str) else ""
