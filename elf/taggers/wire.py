"""Protocol buffers as bytes, in which ONNX files are written.

https://protobuf.dev/programming-guides/encoding. A message is a run of fields, each a key (its
number and its kind) and a value: an integer of seven bits a byte, four or eight bytes as they are,
or a length and so many bytes, which may be a message again.
"""

import mmap
from collections.abc import Iterator

Field = tuple[int, int, int]  # number, and start and end of a length-delimited value
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """Return an integer, a negative one as that of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """Return a field that holds an integer."""
    return varint(number << 3 | VARINT) + varint(value)


def content(number: int, value: bytes | str) -> bytes:
    """Return a field that holds bytes, a text or a message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | BYTES) + varint(len(data)) + data


def select(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each value of a message's field of that number."""
    for number, first, last in fields(data, start, end):
        if number == wanted:
            yield first, last


def fields(data: mmap.mmap, position: int, end: int, values: bool = False) -> Iterator[Field]:
    """Yield a message's length-delimited fields, or its integers (as start) where asked.

    Raises:
        ValueError, IndexError: If that is no message.
    """
    while position < end:
        key, position = _read_varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == BYTES:
            length, position = _read_varint(data, position)
            if position + length > end:
                raise ValueError("a field reaches beyond its message")
            if not values:
                yield number, position, position + length
            position += length
        elif kind == VARINT:
            value, position = _read_varint(data, position)
            if values:
                yield number, value, position
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        else:
            raise ValueError("not a protocol buffer")


def _read_varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("not a protocol buffer")
