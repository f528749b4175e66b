"""Writes ``.safetensors`` files of which the same content makes the same bytes.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, the
header as JSON, and the tensors' bytes one behind the other. The library writes what is in memory as
a whole; a base is larger than that, so `write_entries` takes its tensors one after another.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

ALIGNMENT = 8
"""Bytes that a header's length is a multiple of; the format allows blanks behind its JSON."""


class Entry(NamedTuple):
    """A tensor that is yet to be made.

    Attributes:
        dtype: As the format calls it.
        shape: Its shape.
        length: Of its bytes.
        pieces: Makes these.
    """

    dtype: str
    shape: tuple[int, ...]
    length: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


def file_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Return a file whose entries about itself are sorted; the library's come as they like."""
    whole: bytes = save(dict(tensors), dict(header))
    end = 8 + int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8:end])
    return _start(entries, entries.pop("__metadata__", {})) + whole[end:]


def write_file(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a file."""
    path.write_bytes(file_bytes(tensors, header))


def write_entries(path: Path, entries: Mapping[str, Entry], header: Mapping[str, str]) -> None:
    """Write a file of which one tensor is in memory at a time.

    Args:
        path: The file.
        entries: What it holds, by name. Those of wider types come first, as the library has them:
            so each lies at a multiple of its type's size.
        header: What it says of itself.
    """
    ordered = sorted(entries.items(), key=lambda pair: -_width(pair[1]))
    described: dict[str, Any] = {}
    end = 0
    for name, entry in ordered:
        offsets = [end, end := end + entry.length]
        described[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": offsets,
        }
    with path.open("wb") as file:
        file.write(_start(described, header))
        for name, entry in ordered:
            before = file.tell()
            file.writelines(entry.pieces())
            assert file.tell() - before == entry.length, name


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, which must not change as long as they are in use."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data


def _width(entry: Entry) -> int:
    return entry.length // max(1, prod(entry.shape))


def _start(entries: Mapping[str, Any], header: Mapping[str, str]) -> bytes:
    """Return what stands before the tensors' bytes."""
    about: dict[str, Any] = {"__metadata__": dict(sorted(header.items())), **entries}
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
