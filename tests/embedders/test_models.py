"""What each kind of embedder gives, against the model itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elf.embedders import CLIPEmbedder, DinoEmbedder, TaggerEmbedder
from elf.errors import ElfError
from elf.resources import shipped
from elf.taggers import TorchTagger
from elf.taggers.wd_torch import torch_preprocess
from elf.tiny.timm_tagger import build as build_tagger

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
def test_dino_gives_the_class_token_after_the_last_norm(
    dino_folders: dict[str, Path], drawings: list[Image.Image], kind: str
) -> None:
    embedder = DinoEmbedder(str(dino_folders[kind]), CPU)
    pixels = torch.from_numpy(np.stack([embedder.preprocessing(p) for p in drawings]))
    with torch.no_grad():
        raw = embedder.model(pixels, output_hidden_states=True).hidden_states[-1][:, 0]
        expected = torch.nn.functional.layer_norm(
            raw, raw.shape[1:], embedder.model.layernorm.weight, embedder.model.layernorm.bias, 1e-6
        )
    assert pixels.shape == (len(drawings), 3, 28, 28)
    rows = embedder.pictures(drawings)
    np.testing.assert_allclose(rows, expected.numpy(), atol=1e-5)
    assert rows.shape == (len(drawings), 32)


def test_another_model_is_no_dinov2(dino_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dino_folders["dinov2"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    for kind, shown in (("vit", "'vit'"), (None, "None")):
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        with pytest.raises(ElfError, match=rf"is of type {shown} by its config.json, not dinov2 "):
            DinoEmbedder(str(folder), CPU)
    (folder / "config.json").write_text("{")
    with pytest.raises(ElfError, match=r"is of type None by its config\.json"):
        DinoEmbedder(str(folder), CPU)


def test_clip_compares_pictures_with_texts(drawings: list[Image.Image]) -> None:
    embedder = CLIPEmbedder("models/tiny/clip", CPU)
    pictures, texts = embedder.pictures(drawings), embedder.texts(["1girl, forest", "1boy, beach"])
    assert texts.dtype == np.float32 and texts.shape == (2, pictures.shape[1])
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(embedder.texts(["1girl, forest", "1boy, beach"]), texts)
    assert embedder.model.dtype == torch.float32  # its file holds half-precision weights


def test_a_taggers_embedding_is_what_its_torch_head_takes(
    tmp_path: Path, drawings: list[Image.Image]
) -> None:
    folder = build_tagger(tmp_path)
    embedder = TaggerEmbedder(str(folder), CPU)  # there is no ONNX file
    tagger = TorchTagger(folder)
    pixels = np.stack([torch_preprocess(folder)(picture) for picture in drawings])
    np.testing.assert_allclose(
        embedder.pictures(drawings), tagger.describe(pixels)[1], rtol=0, atol=1e-5
    )


def test_a_tagger_without_an_embedding_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    folder = Path(shutil.copytree(shipped("models/tiny/tagger"), tmp_path / "model"))
    tags = len((folder / "selected_tags.csv").read_text().splitlines()) - 1
    # the mean of each row of pixels and a sigmoid: a score for each tag without a matrix product
    nodes = [
        helper.make_node("Slice", ["pixels", "zero", "tags", "axis"], ["cut"]),
        helper.make_node("ReduceMean", ["cut"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["scores"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("tags", TensorProto.INT64, [1], [tags]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    side = tags + 4
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["b", side, side, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", tags])
    graph = helper.make_graph(nodes, "g", [pixels], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ElfError, match=r"shows no embedding before its head; take a WD tagger"):
        TaggerEmbedder(str(folder), CPU)
