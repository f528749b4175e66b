import numpy as np
import onnxruntime
import pytest

from elf.taggers import WDTagger
from elf.taggers.onnx_head import head_input, with_output
from elf.tiny.onnx_file import Graph


def test_the_tensor_before_the_head_is_found_and_given(tiny_models):
    path = tiny_models["tagger"] / "model.onnx"
    name = head_input(path)
    session = onnxruntime.InferenceSession(with_output(path.read_bytes(), name))
    pixels = np.random.default_rng(0).random((2, 64, 64, 3), np.float32) * 255
    scores, inner = session.run(None, {"input": pixels})
    plain = onnxruntime.InferenceSession(path).run(None, {"input": pixels})[0]
    np.testing.assert_array_equal(scores, plain)
    assert inner.shape[0] == 2 and inner.ndim == 2


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_what_stands_between_product_and_output_is_passed(tmp_path, kind):
    graph = Graph("test")
    pooled = graph.node("ReduceMean", ["input"], output="pooled", axes=[1, 2], keepdims=0)
    weight, bias = np.eye(3, dtype=np.float16), graph.constant(np.zeros(3, np.float32))
    value = graph.node(kind, [pooled, graph.constant(weight)])
    value = graph.node("Add", [bias, value])
    graph.node("Sigmoid", [graph.node("Identity", [value])], output="output")
    path = tmp_path / "model.onnx"
    path.write_bytes(graph.model({"input": ["n", 4, 4, 3]}, {"output": ["n", 3]}))
    assert head_input(path) == "pooled"


def test_a_model_without_a_head_has_no_embedding(tmp_path):
    graph = Graph("test")
    value = graph.node("ReduceMean", ["input"], axes=[1, 2], keepdims=0)
    graph.node("Sigmoid", [value], output="output")
    (tmp_path / "model.onnx").write_bytes(
        graph.model({"input": ["n", 4, 4, 3]}, {"output": ["n", 3]})
    )
    (tmp_path / "selected_tags.csv").write_text("name,category\na,0\nb,0\nc,0\n")
    assert head_input(tmp_path / "model.onnx") is None
    scores, embedding = WDTagger(tmp_path).describe(np.zeros((2, 4, 4, 3), np.uint8))
    assert scores.shape == (2, 3) and embedding is None


def test_a_file_cut_anywhere_is_never_a_crash(tmp_path, tiny_models):
    data = (tiny_models["tagger"] / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    for length in (0, 1, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert head_input(path) is None or isinstance(head_input(path), str)


def test_the_tagger_gives_scores_and_an_embedding_for_each_picture(tiny_models):
    tagger = WDTagger(tiny_models["tagger"])
    pixels = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    scores, embedding = tagger.describe(pixels)
    np.testing.assert_array_equal(scores, tagger.score(pixels))
    assert len(embedding) == 5 and np.ptp(embedding, axis=0).max() > 0
