import numpy as np
import pytest

from elf.errors import ElfError
from elf.taggers.onnx_input import input_shape
from elf.tiny.onnx_file import Graph


def model(inputs, weights=()):
    graph = Graph("test")
    for array in weights:
        graph.constant(array)
    graph.node("Flatten", [next(iter(inputs))], output="output", axis=1)
    return graph.model(inputs, {"output": ["batch", 12]})


@pytest.mark.parametrize("batch", ["batch", 1, 7])
def test_the_shape_is_read(tmp_path, batch):
    path = tmp_path / "model.onnx"
    path.write_bytes(model({"x": [batch, 448, 448, 3]}, [np.zeros(300, np.float32)]))
    expected = None if isinstance(batch, str) else batch
    assert input_shape(path) == [expected, 448, 448, 3]


def test_weights_that_are_listed_as_inputs_are_passed_over(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model({"weight": [3, 3], "x": ["n", 64, 64, 3]}))
    assert input_shape(path) == [None, 64, 64, 3]


def test_it_agrees_with_onnxruntime(tiny_models):
    import onnxruntime

    path = tiny_models["tagger"] / "model.onnx"
    shape = onnxruntime.InferenceSession(path).get_inputs()[0].shape
    assert [size if isinstance(size, int) else None for size in shape] == input_shape(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 99, b"\x3a\xff\xff\xff\x7f", b"\x08"])
def test_what_is_no_model_is_one_line(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ElfError, match=r"model.onnx: not an ONNX model with a picture input; fet"):
        input_shape(path)


def test_a_model_cut_anywhere_is_never_a_crash(tmp_path):
    path = tmp_path / "model.onnx"
    data = model({"x": ["batch", 448, 448, 3]})
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            assert input_shape(path) == [None, 448, 448, 3]
        except ElfError:
            pass
