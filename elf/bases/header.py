"""The header of a safetensors file: what it holds, without reading it."""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elf.errors import ElfError

_CHUNK = 1 << 24  # bytes read at a time
_LARGEST = 100_000_000  # bytes of a header, safetensors' own limit


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds.

    Attributes:
        path: The file.
        shapes: Of its tensors, by name.
        metadata: Strings that whoever wrote it has added.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    _tensors: dict[str, Any]
    _start: int

    @classmethod
    def read(cls, path: Path) -> "Header":
        """Read the header of a file.

        Raises:
            ElfError: If it is no safetensors file, or is not whole.
        """
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > _LARGEST:
                    raise ValueError("its header is too long")
                tensors = json.loads(file.read(length))
            metadata = tensors.pop("__metadata__", {})
            shapes = {name: tuple(each["shape"]) for name, each in tensors.items()}
            ends = [int(each["data_offsets"][1]) for each in tensors.values()]
        except OSError as error:
            raise ElfError(f"base model: {path} could not be read ({error.strerror})") from None
        except (
            *(ValueError, LookupError, TypeError, AttributeError, OverflowError),
            *(RecursionError, struct.error),
        ):
            raise ElfError(
                f"base model: {path} is no safetensors file, or is damaged; download it again"
            ) from None
        wanted, size = 8 + length + max(ends, default=0), path.stat().st_size
        if size < wanted:
            raise ElfError(
                f"base model: {path} ends after {size:,} of {wanted:,} bytes; download it again"
            )
        return cls(path, shapes, metadata, tensors, 8 + length)

    def dtype(self, name: str) -> str:
        """Return a tensor's type, as the format calls it: ``F16``."""
        return str(self._tensors[name]["dtype"])

    def length(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        start, end = self._tensors[name]["data_offsets"]
        return int(end - start)

    def in_order(self) -> list[str]:
        """Return the tensors as they lie in the file."""
        return sorted(self._tensors, key=lambda name: self._tensors[name]["data_offsets"])

    def pieces(self, name: str) -> Iterator[bytes]:
        """Read a tensor's bytes, a piece at a time.

        Raises:
            ElfError: If the file ends before they do.
        """
        start, end = self._tensors[name]["data_offsets"]
        with self.path.open("rb") as file:
            file.seek(self._start + start)
            while start < end:
                data = file.read(min(_CHUNK, end - start))
                if not data:
                    raise ElfError(f"base model: {self.path} has become shorter")
                yield data
                start += len(data)

    def sha256(self, names: Iterable[str]) -> str:
        """Return a hash of tensors: their names, types, shapes and bytes, in the order of names.

        Whatever else is in the file, and wherever in it they are.
        """
        digest = hashlib.sha256()
        for name in sorted(names):
            tensor = self._tensors[name]
            digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
            for data in self.pieces(name):
                digest.update(data)
        return digest.hexdigest()
