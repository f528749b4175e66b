"""The input shape of an ONNX file, read from its protocol buffer without loading the weights.

Field numbers are those of onnx.proto: ``ModelProto.graph = 7``, ``GraphProto.input = 11``,
``ValueInfoProto.type = 2``, ``TypeProto.tensor_type = 1``, ``TypeProto.Tensor.shape = 2``,
``TensorShapeProto.dim = 1``, ``Dimension.dim_value = 1`` and ``dim_param = 2``.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from elf.errors import ElfError

Field = tuple[int, int, int]  # number, and start and end of a length-delimited value
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def input_shape(path: str | Path) -> list[int | None]:
    """Return the shape of an ONNX model's picture input; None for a free dimension.

    The first input of four dimensions is taken: old files list their weights as inputs too.

    Raises:
        ElfError: If the file is no ONNX model or has no such input.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for shape in _input_shapes(data):
                if len(shape) == 4:
                    return shape
    except (ValueError, IndexError):
        pass
    raise ElfError(f"{path}: not an ONNX model with a picture input; fetch the file again")


def _input_shapes(data: mmap.mmap) -> Iterator[list[int | None]]:
    for graph in select(data, 0, len(data), 7):
        for value in select(data, *graph, 11):
            for kind in select(data, *value, 2):
                for tensor in select(data, *kind, 1):
                    for shape in select(data, *tensor, 2):
                        yield [_dimension(data, *dim) for dim in select(data, *shape, 1)]


def _dimension(data: mmap.mmap, start: int, end: int) -> int | None:
    for number, value, _ in fields(data, start, end, values=True):
        if number == 1:
            return value if value > 0 else None
    return None


def select(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each value of a message's field of that number."""
    for number, first, last in fields(data, start, end):
        if number == wanted:
            yield first, last


def fields(data: mmap.mmap, position: int, end: int, values: bool = False) -> Iterator[Field]:
    """Yield a message's length-delimited fields, or its integers (as start) where asked."""
    while position < end:
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, position = _varint(data, position)
            if position + length > end:
                raise ValueError("a field reaches beyond its message")
            if not values:
                yield number, position, position + length
            position += length
        elif kind == _VARINT:
            value, position = _varint(data, position)
            if values:
                yield number, value, position
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not a protocol buffer")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
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
