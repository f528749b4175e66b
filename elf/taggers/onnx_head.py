"""Where a tagger's head begins: the tensor before its last matrix product, an embedding.

Field numbers are those of onnx.proto: ``GraphProto.node = 1``, ``initializer = 5`` and
``output = 12``, ``NodeProto.input = 1``, ``output = 2`` and ``op_type = 4``, and name = 8 of
``TensorProto`` and 1 of ``ValueInfoProto``.
"""

import mmap
from pathlib import Path

from elf.taggers.wire import content, select

_THROUGH = {"Sigmoid", "Add", "Identity", "Cast", "Reshape", "Squeeze", "Softmax"}
_PRODUCTS = {"Gemm", "MatMul", "FusedMatMul"}
_DEEP = 16  # nodes that are followed back at the most


def head_input(path: str | Path) -> str | None:
    """Return the name of what the model's last matrix product takes; None if there is no such."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for graph in select(data, 0, len(data), 7):
                return _head_input(data, graph)
    except (ValueError, IndexError, KeyError, StopIteration):  # no graph that is understood
        pass
    return None


def _head_input(data: mmap.mmap, graph: tuple[int, int]) -> str | None:
    producers: dict[str, tuple[str, list[str]]] = {}
    constants = {_text(data, place, 8) for place in select(data, *graph, 5)}
    for node in select(data, *graph, 1):
        kind = _text(data, node, 4)
        inputs = [data[start:end].decode() for start, end in select(data, *node, 1)]
        if kind == "Constant" or (inputs and constants.issuperset(inputs)):
            constants.update(data[start:end].decode() for start, end in select(data, *node, 2))
            continue
        for start, end in select(data, *node, 2):
            producers[data[start:end].decode()] = (kind, inputs)
    name = _text(data, next(select(data, *graph, 12)), 1)
    for _ in range(_DEEP):
        kind, inputs = producers[name]
        name = next(value for value in inputs if value not in constants)
        if kind in _PRODUCTS:
            return name
        if kind not in _THROUGH:
            return None
    return None


def _text(data: mmap.mmap, place: tuple[int, int], number: int) -> str:
    for start, end in select(data, *place, number):
        return data[start:end].decode()
    return ""


def with_output(model: bytes, name: str) -> bytes:
    """Return a model that also gives one of its inner tensors.

    Two encodings of a message one after the other are, to every reader of protocol buffers, one
    message with both lists of repeated fields: a graph with one output is appended.
    """
    return model + content(7, content(12, content(1, name)))
