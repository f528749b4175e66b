"""Writes a ``.safetensors`` file of which the same content makes the same bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

ALIGNMENT = 8
"""Bytes that a header's length is a multiple of; the format allows blanks behind its JSON."""


def file_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Return a file whose entries about itself are sorted; the library's come as they like."""
    whole: bytes = save(dict(tensors), dict(header))
    end = 8 + int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8:end])
    about = {"__metadata__": dict(sorted(entries.pop("__metadata__", {}).items()))}
    text = json.dumps(about | entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + whole[end:]


def write_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a file."""
    path.write_bytes(file_bytes(tensors, header))
