import csv

import numpy as np
import pytest

from elf.errors import ElfError
from elf.taggers import WDConfig, WDPreprocess, WDTagger
from elf.taggers.microbatch import fitting_batch
from elf.taggers.wd import ACTIVATIONS, placed, wd_folder, wd_preprocess
from elf.tiny.onnx_file import Graph

SIZE = 4


def folder_of(path, batch="batch", tags=3, size=SIZE, shape=None, sigmoid=False, scale=1 / 255):
    """Write a model whose scores are the means of blue, green and red, times `scale`."""
    graph = Graph("means")
    value = graph.node("ReduceMean", ["input"], axes=[1, 2], keepdims=0)
    value = graph.node("Mul", [value, graph.constant(np.float32([scale]))])
    graph.node("Sigmoid" if sigmoid else "Identity", [value], output="output")
    shape = shape or [batch, size, size, 3]
    path.mkdir(exist_ok=True)
    (path / "model.onnx").write_bytes(graph.model({"input": shape}, {"output": [batch, 3]}))
    with (path / "selected_tags.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tag_id", "name", "category", "count"])
        rows.writerows([number, f"tag_{number}", 0, 0] for number in range(tags))
    return path


def pictures(count, size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_channels_are_bgr_and_values_0_to_255(tmp_path):
    pixels = pictures(5)
    scores = WDTagger(folder_of(tmp_path)).score(pixels)
    expected = pixels.astype(np.float64).mean((1, 2))[:, ::-1] / 255
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_probabilities_get_no_second_sigmoid(tmp_path):
    black = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    assert WDTagger(folder_of(tmp_path)).score(black).tolist() == [[0, 0, 0]]
    assert WDTagger(folder_of(tmp_path, sigmoid=True)).score(black).tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_is_detected_and_run_one_by_one(tmp_path, batch):
    pixels = pictures(5)
    free = WDTagger(folder_of(tmp_path / "free"))
    fixed = WDTagger(folder_of(tmp_path / "fixed", batch=batch))
    assert free.fixed_batch is None and fixed.fixed_batch == batch
    np.testing.assert_array_equal(fixed.score(pixels), free.score(pixels))


def test_the_scores_do_not_depend_on_the_batch(tiny_models):
    tagger = WDTagger(tiny_models["tagger"])
    pixels = pictures(8, 64)
    whole = tagger.score(pixels)
    for size in (1, 3):
        parts = [tagger.score(pixels[at : at + size]) for at in range(0, 8, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_the_provider_is_the_one_that_the_session_got(tiny_models):
    assert WDTagger(tiny_models["tagger"]).provider == "CPUExecutionProvider"


def test_a_gpu_that_onnxruntime_cannot_use_is_told(tiny_models, monkeypatch):
    import onnxruntime

    real = onnxruntime.InferenceSession

    def on_cpu(path, options, providers):
        assert providers[0] == ("CUDAExecutionProvider", {"device_id": 1})
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.warns(UserWarning, match="runs on CPUExecutionProvider although a GPU was asked"):
        assert WDTagger(tiny_models["tagger"], "cuda:1").provider == "CPUExecutionProvider"


def test_the_preprocessing_needs_no_weights(tiny_models, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    assert wd_preprocess(tiny_models["tagger"]) == WDPreprocess(64)


@pytest.mark.parametrize("shape", [["n", 3, 8, 8], ["n", 8, 9, 3], ["n", "h", "w", 3]])
def test_another_layout_is_refused(tmp_path, shape):
    folder = folder_of(tmp_path, shape=shape)
    with pytest.raises(ElfError, match=r"not \(batch, size, size, 3\); is it a WD tagger's ONNX"):
        wd_preprocess(folder)


def test_logits_are_refused(tmp_path):
    tagger = WDTagger(folder_of(tmp_path, scale=1.0))
    with pytest.raises(ElfError, match="its outputs are no probabilities between 0 and 1"):
        tagger.score(pictures(1))


def test_a_list_of_another_model_is_refused(tmp_path):
    tagger = WDTagger(folder_of(tmp_path, tags=4))
    with pytest.raises(ElfError, match=r"gives 3 scores for the 4 tags of selected_tags.csv; the"):
        tagger.score(pictures(1))


def test_a_damaged_model_is_one_line(tiny_models, tmp_path):
    folder = folder_of(tmp_path)
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ElfError, match=r"model.onnx: could not be loaded \(.*\); fetch the file"):
        WDTagger(folder)


def test_a_missing_model_is_one_line(tmp_path):
    with pytest.raises(ElfError, match=r"tagger \(model.wd.model\): .* has no model.onnx; is it"):
        wd_folder(WDConfig(str(tmp_path)))
    with pytest.raises(ElfError, match=r"tagger \(model.wd.model\): no folder ./none; give an ex"):
        wd_folder(WDConfig("./none"))


class Starving:
    """A session that runs out of memory beyond a number of pictures."""

    def __init__(self, session, limit, message="Failed to allocate memory for requested buffer"):
        self.session, self.limit, self.message = session, limit, message
        self.sizes = []

    def run(self, outputs, inputs):
        (pixels,) = inputs.values()
        self.sizes.append(len(pixels))
        if len(pixels) > self.limit:
            raise RuntimeError(self.message)
        return self.session.run(outputs, inputs)


@pytest.mark.parametrize(
    "message",
    [
        "BFCArena: out of space",
        "CUDA failure 2: out of memory",
        "std::bad_alloc",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    ],
)
def test_the_batch_is_halved_when_memory_runs_out(tmp_path, message):
    tagger = WDTagger(folder_of(tmp_path))
    pixels = pictures(13)
    expected = tagger.score(pixels)
    tagger._session = session = Starving(tagger._session, 3, message)
    with pytest.warns(UserWarning, match=r"out of memory with \d+ pictures at once; going on wi"):
        scores = tagger.score(pixels)
    np.testing.assert_array_equal(scores, expected)
    assert session.sizes == [13, 6, 3, 3, 3, 3, 1] and tagger.micro_batch == 3
    tagger.score(pixels)  # what was learnt stays
    assert session.sizes[7:] == [3, 3, 3, 3, 1]


def test_no_memory_for_a_single_picture_is_one_line(tmp_path):
    tagger = WDTagger(folder_of(tmp_path))
    tagger._session = Starving(tagger._session, 0)
    with pytest.raises(ElfError, match="not enough memory for a single picture on CPUExecutionPro"):
        tagger.score(pictures(1))


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path):
    tagger = WDTagger(folder_of(tmp_path))
    tagger._session = Starving(tagger._session, 0, "invalid argument")
    with pytest.raises(RuntimeError, match="invalid argument"):
        tagger.score(pictures(4))


def test_the_batch_that_fits_is_a_power_of_two():
    gibibyte, picture = 1 << 30, 448 * 448 * 3 * 4 * ACTIVATIONS
    assert fitting_batch(6 * gibibyte, picture) == 8
    assert fitting_batch(70 * gibibyte, picture) == 64
    assert fitting_batch(0, picture) == 1


def test_a_gpu_that_was_named_and_cannot_be_used_is_refused(tiny_models, monkeypatch):
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession",
        lambda path, options, providers: real(path, options, providers=["CPUExecutionProvider"]),
    )  # fmt: skip
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(ElfError, match=r"model.wd.provider: .* runs on CPUExecutionProvider alth"):
        WDTagger(tiny_models["tagger"], "cuda:0", provider="cuda")


def test_the_cpu_can_be_named_beside_a_gpu(tiny_models):
    assert WDTagger(tiny_models["tagger"], "cuda:0", provider="cpu").provider == (
        "CPUExecutionProvider"
    )


@pytest.mark.parametrize(
    ("device", "provider", "expected"),
    [
        ("cuda:1", "auto", "cuda:1"),
        ("cuda:1", "cuda", "cuda:1"),
        ("cpu", "cuda", "cuda"),
        ("cuda:1", "cpu", "cpu"),
    ],
)
def test_where_a_tagger_runs(device, provider, expected):
    assert placed(device, provider) == expected


def test_memory_is_asked_for_on_a_gpu_alone(tiny_models, monkeypatch):
    import elf.taggers.wd

    monkeypatch.setattr(elf.taggers.wd, "CUDA", "CPUExecutionProvider")  # as if it were one
    monkeypatch.setattr(elf.taggers.wd, "free_memory", lambda device: 1 << 30)
    tagger = WDTagger(tiny_models["tagger"])
    assert tagger.micro_batch == fitting_batch(1 << 30, 64 * 64 * 3 * 4 * ACTIVATIONS)
