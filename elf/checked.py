"""JSON files in one canonical form that carry their own checksum: any changed bit is noticed."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.files import write_atomic

VERSION = 1  # of what prepare writes: shards, caches, and the list of both


def canonical(value: object) -> bytes:
    """Return the one JSON form of a value, for hashing and for files that are byte-identical."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def write_checked(path: Path, value: dict[str, Any]) -> None:
    """Write an object as JSON with its own checksum, atomically."""
    checksum = hashlib.sha256(canonical(value)).hexdigest()
    write_atomic(path, canonical({**value, "checksum": checksum}))


def read_checked(path: Path, remedy: str) -> dict[str, Any]:
    """Read what ``write_checked`` wrote; any changed bit is noticed.

    Args:
        path: The file.
        remedy: The way out, for the message.

    Raises:
        ElfError: If the file is missing, damaged, or of another version of the format.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ElfError(f"{path} is missing: {remedy}") from None
    return parse_checked(data, str(path), remedy)


def parse_checked(data: bytes, name: str, remedy: str) -> dict[str, Any]:
    """Return the object that ``write_checked`` wrote as these bytes.

    Args:
        data: The bytes.
        name: Of the file, for the message.
        remedy: The way out, for the message.

    Raises:
        ElfError: If they are damaged, or of another version of the format.
    """
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
        value = json.loads(data)
        checksum = value.pop("checksum")
        body = canonical(value)
        same = canonical({**value, "checksum": checksum}) == data
        if same and hashlib.sha256(body).hexdigest() == checksum:
            if value.get("version") == VERSION:
                return dict(value)
            raise ElfError(f"{name} was written by another version of elf: {remedy}")
    raise ElfError(f"{name} is damaged (its checksum does not match): {remedy}")
