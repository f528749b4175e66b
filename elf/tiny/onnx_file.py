"""Writes a small ONNX file without the `onnx` package: protocol buffers by hand.

Only what a feed-forward network needs. Field numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). torch's exporter wants `onnx`, which
is otherwise no dependency of Elf, and its bytes change with torch's version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FLOAT, INT64, FLOAT16 = 1, 7, 10
"""ONNX's numbers for element types."""

_ELEMENT_TYPES = {"float32": FLOAT, "int64": INT64, "float16": FLOAT16}

Attribute = int | float | Sequence[int]


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes(number: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _attribute(name: str, value: Attribute) -> bytes:
    body = _bytes(1, name)
    if isinstance(value, float):
        number = _varint(2 << 3 | 5) + np.float32(value).tobytes()
        return body + number + _int(20, 1)
    if isinstance(value, int):
        return body + _int(3, value) + _int(20, 2)
    return body + b"".join(_int(8, item) for item in value) + _int(20, 7)


def _tensor(name: str, array: NDArray[np.generic]) -> bytes:
    dims = b"".join(_int(1, size) for size in array.shape)
    kind = _int(2, _ELEMENT_TYPES[array.dtype.name])
    little = array.astype(array.dtype.newbyteorder("<"))
    return dims + kind + _bytes(8, name) + _bytes(9, little.tobytes())


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(
        _bytes(1, _bytes(2, size) if isinstance(size, str) else _int(1, size)) for size in shape
    )
    tensor = _int(1, FLOAT) + _bytes(2, dims)
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor))


@dataclass
class Graph:
    """A graph under construction: nodes in the order in which they run."""

    name: str
    _nodes: list[bytes] = field(default_factory=list)
    _tensors: list[bytes] = field(default_factory=list)
    _count: int = 0

    def constant(self, array: NDArray[np.generic]) -> str:
        """Store a constant; float16 is cast to float32 when the model is loaded."""
        self._count += 1
        name = f"constant_{self._count}"
        self._tensors.append(_tensor(name, array))
        return self.node("Cast", [name], to=FLOAT) if array.dtype == np.float16 else name

    def node(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Attribute
    ) -> str:
        """Append an operator and return the name of its output."""
        self._count += 1
        output = output or f"value_{self._count}"
        body = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output)
        body += _bytes(3, f"{kind}_{self._count}") + _bytes(4, kind)
        body += b"".join(_bytes(5, _attribute(*item)) for item in attributes.items())
        self._nodes.append(body)
        return output

    def model(
        self,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, Sequence[int | str]],
        opset: int = 17,
    ) -> bytes:
        """The bytes of the model file.

        Args:
            inputs: shape of each float32 input by name; a string is a free dimension.
            outputs: the same for the outputs.
            opset: version of the operator set.
        """
        graph = b"".join(_bytes(1, node) for node in self._nodes) + _bytes(2, self.name)
        graph += b"".join(_bytes(5, tensor) for tensor in self._tensors)
        graph += b"".join(_bytes(11, _value(*item)) for item in inputs.items())
        graph += b"".join(_bytes(12, _value(*item)) for item in outputs.items())
        operators = _bytes(1, "") + _int(2, opset)
        return _int(1, 8) + _bytes(2, "elf") + _bytes(7, graph) + _bytes(8, operators)
