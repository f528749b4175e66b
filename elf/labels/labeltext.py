"""A picture's text file: what stands in it, and how it is written."""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from elf.files import replace_file
from elf.labels.decisions import is_left_out
from elf.labels.records import Record
from elf.platforms import EXACTLY

FEW = 32
"""Files for which no thread is started."""

PAGE, SECTOR = 4096, 512
"""Bytes that no kill and no power loss tears: the kernel copies the one, disks write the other."""


class Label(NamedTuple):
    """A new record of a labelled picture, and its text file.

    Attributes:
        record: As the reviewer wants it.
        text: What the file is to hold.
        held: What it holds, where that is just what the old record gives; else none.
    """

    record: Record
    text: bytes
    held: bytes | None


def label_text(record: Record) -> str:
    """Return the content of a picture's text file: one line of tags, or a caption, or both.

    ``attributes.text`` says which; where there is no caption the tags stand for it.
    """
    tags = [tag for tag in record["tags"] if tag]
    caption = " ".join(str(record.get("caption") or "").split())
    kind = record.get("attributes", {}).get("text", "tags")
    if not caption or kind == "tags":
        return ", ".join(tags) + "\n"
    if kind == "both":
        return ", ".join([*tags, caption]) + "\n"
    trigger = record["attributes"].get("trigger", "")
    return ", ".join([trigger] * bool(trigger) + [caption]) + "\n"


def write_text(folder: Path, record: Record) -> None:
    """Write a record's text file if it holds something else; none for what is left out."""
    path = f"{folder}/{record['id']}.txt"
    if is_left_out(record):
        Path(path).unlink(missing_ok=True)
        return
    data = label_text(record).encode()
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read() == data:
            return
    replace_file(path, data)


def write_texts(folder: Path, records: Sequence[Record]) -> None:
    """Write the text files of records; many in two threads, for the system does most of it."""
    if len(records) < FEW:
        for record in records:
            write_text(folder, record)
        return

    def write(share: Sequence[Record]) -> None:
        for record in share:
            write_text(folder, record)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, share) for share in (records[::2], records[1::2])]:
            done.result()


def rewrite_text(folder: Path, label: Label) -> None:
    """Write a labelled picture's text file anew; its new record has to be on the disk by now.

    Where the old record gives what the file holds, it is written over in place: to make a new
    file and give it the old one's name takes twenty times as long. What a kill or a power loss
    leaves then is known by :func:`torn`; who reads the file meanwhile may see as much.
    """
    path = f"{folder}/{label.record['id']}.txt"
    if label.held is None or is_left_out(label.record):
        write_text(folder, label.record)
    elif label.held != label.text and not _overwrite(path, label.held, label.text):
        replace_file(path, label.text)


def _overwrite(path: str, old: bytes, new: bytes) -> bool:
    """Write over a file; False, and it is to be replaced, if it is no such simple one."""
    if len(new) > PAGE:
        return False
    try:
        descriptor = os.open(path, os.O_WRONLY | EXACTLY)
        try:
            status = os.fstat(descriptor)
            # a second name (of a copy by hard links) is to keep the old text
            if status.st_size != len(old) or status.st_nlink != 1:
                return False
            if os.write(descriptor, new) != len(new):
                return False
            if len(new) < len(old):
                os.ftruncate(descriptor, len(new))
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def torn(found: bytes, old: bytes, new: bytes) -> bool:
    """Whether a text is what is left of writing ``new`` over ``old``, when that was interrupted.

    A kill may leave the old text's end behind the new one; a power loss besides either text in
    the other's length, and, where a text has several sectors, some of each.
    """
    size = len(found)
    texts = [text[:size] for text in (old, new + old[len(new) :])]
    return size in (len(old), len(new)) and all(
        found[at : at + SECTOR] in [text[at : at + SECTOR] for text in texts]
        for at in range(0, size, SECTOR)
    )
