"""Writes a small ONNX file without the `onnx` package.

Only what a feed-forward network needs. Field numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). torch's exporter wants `onnx`, which
is otherwise no dependency of Elf, and its bytes change with torch's version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elf.taggers.wire import FIXED32, content, integer, varint

FLOAT, INT64, FLOAT16 = 1, 7, 10
"""ONNX's numbers for element types."""

_ELEMENT_TYPES = {"float32": FLOAT, "int64": INT64, "float16": FLOAT16}

Attribute = int | float | Sequence[int]


def _attribute(name: str, value: Attribute) -> bytes:
    body = content(1, name)
    if isinstance(value, float):
        number = varint(2 << 3 | FIXED32) + np.float32(value).tobytes()
        return body + number + integer(20, 1)
    if isinstance(value, int):
        return body + integer(3, value) + integer(20, 2)
    return body + b"".join(integer(8, item) for item in value) + integer(20, 7)


def _tensor(name: str, array: NDArray[np.generic]) -> bytes:
    dims = b"".join(integer(1, size) for size in array.shape)
    kind = integer(2, _ELEMENT_TYPES[array.dtype.name])
    little = array.astype(array.dtype.newbyteorder("<"))
    return dims + kind + content(8, name) + content(9, little.tobytes())


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(
        content(1, content(2, size) if isinstance(size, str) else integer(1, size))
        for size in shape
    )
    tensor = integer(1, FLOAT) + content(2, dims)
    return content(1, name) + content(2, content(1, tensor))


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
        body = b"".join(content(1, name) for name in inputs) + content(2, output)
        body += content(3, f"{kind}_{self._count}") + content(4, kind)
        body += b"".join(content(5, _attribute(*item)) for item in attributes.items())
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
        graph = b"".join(content(1, node) for node in self._nodes) + content(2, self.name)
        graph += b"".join(content(5, tensor) for tensor in self._tensors)
        graph += b"".join(content(11, _value(*item)) for item in inputs.items())
        graph += b"".join(content(12, _value(*item)) for item in outputs.items())
        operators = content(1, "") + integer(2, opset)
        return integer(1, 8) + content(2, "elf") + content(7, graph) + content(8, operators)
