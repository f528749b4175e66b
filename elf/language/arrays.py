"""Flat arrays in .npy files: written piece by piece, checked by a hash, mapped into memory."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elf.platforms import sync_file

Array = npt.NDArray[Any]
_TYPES = ("|b1", "<u2", "<u4", "<u8", "<i8")  # a file could name one that holds pointers
_HEADER = 128  # bytes, whatever the length of the array: it is written last


def header(dtype: np.dtype[Any], count: int) -> bytes:
    """Return the head of a .npy file of a flat array (format 1.0, padded with blanks)."""
    descr = np.lib.format.dtype_to_descr(dtype)
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': ({count},), }}"
    size = _HEADER - 10
    return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + f"{text:<{size - 1}}\n".encode()


class ArrayWriter:
    """Writes a flat array of unknown length.

    Args:
        path: The .npy file.
        dtype: Of the array; little-endian on each machine.

    Attributes:
        count: Elements so far.
        digest: The sha256 of the elements' bytes.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.count = 0
        self.digest = hashlib.sha256()
        self._file = open(path, "wb")
        self._file.write(bytes(_HEADER))

    def append(self, values: npt.ArrayLike) -> None:
        """Append elements."""
        data = np.ascontiguousarray(values, self.dtype)
        self.count += len(data)
        self.digest.update(data.data)
        self._file.write(data.data)

    def close(self) -> None:
        """Write the head, and make all of it survive a power loss."""
        with self._file as file:
            file.seek(0)
            file.write(header(self.dtype, self.count))
            file.flush()
            sync_file(file.fileno())

    def abandon(self) -> None:
        """Close the file without a head: it is no array."""
        self._file.close()


def map_array(path: Path, dtype: str, count: int) -> Array:
    """Return an array that the system reads from its file when it is looked at.

    Raises:
        ValueError: If the file is not an array of this type and length.
    """
    if dtype not in _TYPES:
        raise ValueError("its type is not known")
    expected = np.dtype(dtype)
    with open(path, "rb") as file:
        head = file.read(_HEADER)
    size = _HEADER + count * expected.itemsize
    if head != header(expected, count) or path.stat().st_size != size:
        raise ValueError("it has another head or size")
    if not count:
        return np.empty(0, expected)
    return np.memmap(path, expected, "r", _HEADER, (count,)).view(np.ndarray)
