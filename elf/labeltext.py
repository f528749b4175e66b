"""A picture's text file: what stands in it, and how it is written."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from elf.decisions import is_left_out
from elf.files import replace_file

Record = dict[str, Any]

FEW = 32
"""Files for which no thread is started."""


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
