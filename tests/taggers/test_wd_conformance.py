"""One network as an ONNX file and as timm's weights: the same probabilities by both backends."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from elf.taggers import TorchTagger, WDTagger
from elf.taggers.backend import WDSource
from elf.taggers.wd_torch import check_pictures
from elf.tiny.timm_tagger import FAMILIES, SIZE, build

NONE_REFUSED = sorted(FAMILIES)  # a family that torch's ONNX exporter refuses would be skipped here


class Exported(torch.nn.Module):
    """The authors' interface: (B, S, S, BGR) of 0-255 in, probabilities out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        return torch.sigmoid(self.network(pixels.permute(0, 3, 1, 2) / 127.5 - 1))


def export(folder):
    """Write model.onnx beside timm's files."""
    import timm

    config = json.loads((folder / "config.json").read_text())
    network = timm.create_model(
        config["architecture"], num_classes=config["num_classes"], **config["model_args"]
    )
    network.load_state_dict(load_file(folder / "model.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            Exported(network).eval(),
            torch.zeros(2, SIZE, SIZE, 3),
            folder / "model.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        )
    return folder


@pytest.fixture(scope="module", params=NONE_REFUSED)
def folder(request, tmp_path_factory):
    return export(build(tmp_path_factory.mktemp(request.param), FAMILIES[request.param]))


@pytest.fixture(scope="module")
def pixels():
    noise = np.random.default_rng(1).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
    noise[0, ..., 0] = 255  # a picture whose red and blue tell BGR from RGB
    noise[1, : SIZE // 2] = 20
    return np.concatenate([*check_pictures(SIZE), noise])[:8]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_both_backends_give_the_same(folder, pixels, batch):
    onnx, timm = WDTagger(folder), TorchTagger(folder)
    assert (onnx.provider, timm.provider) == ("CPUExecutionProvider", "torch cpu float32")
    parts = [pixels[at : at + batch] for at in range(0, 8, batch)]
    expected = [onnx.describe(part) for part in parts]
    found = [timm.describe(part) for part in parts]
    scores = np.concatenate([scores for scores, _ in found])
    np.testing.assert_allclose(scores, np.concatenate([s for s, _ in expected]), atol=1e-4)
    assert np.ptp(scores, axis=0).max() > 0.3  # they do hang on the picture
    embedding = np.concatenate([features for _, features in found])
    assert embedding.shape == (8, 32) and embedding.dtype == scores.dtype == np.float32
    if expected[0][1] is not None:  # the tensor before the head was found in the graph
        inner = np.concatenate([features for _, features in expected])
        np.testing.assert_allclose(embedding, inner, atol=1e-3)


def test_both_backends_take_the_same_pixels(folder):
    assert WDSource(folder, "onnx").preprocess() == WDSource(folder, "torch").preprocess()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_near(folder, pixels, dtype):
    exact, short = TorchTagger(folder), TorchTagger(folder, dtype=dtype)
    assert short.provider == f"torch cpu {dtype}"
    limit = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(short.score(pixels), exact.score(pixels), atol=limit)
