"""The input shape of an ONNX file, read from its protocol buffer without loading the weights.

Field numbers are those of onnx.proto: ``ModelProto.graph = 7``, ``GraphProto.input = 11``,
``ValueInfoProto.type = 2``, ``TypeProto.tensor_type = 1``, ``TypeProto.Tensor.shape = 2``,
``TensorShapeProto.dim = 1``, ``Dimension.dim_value = 1`` and ``dim_param = 2``.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from elf.errors import ElfError
from elf.taggers.wire import fields, select


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
