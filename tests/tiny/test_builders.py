import csv
import filecmp
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elf.tiny import build_all
from elf.tiny.tokens import bart_tokenizer, clip_tokenizer
from elf.world.words import vocabulary


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_all(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    from elf.world import draw, sample_scene

    return draw(sample_scene(1))


def test_the_same_seed_writes_the_same_bytes(folders: dict[str, Path], tmp_path: Path) -> None:
    again = build_all(tmp_path, seed=3)
    for kind, folder in folders.items():
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        assert files
        for file in files:
            assert filecmp.cmp(folder / file, again[kind] / file, shallow=False), file


def test_files_fit_into_git(folders: dict[str, Path]) -> None:
    sizes = [path.stat().st_size for f in folders.values() for path in f.rglob("*")]
    assert max(sizes) <= 8 * 2**20
    assert sum(sizes) <= 16 * 2**20


def test_the_base_is_a_stable_diffusion_pipeline(folders: dict[str, Path]) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folders["base"])
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == pipe.vae.dtype == torch.float32
    assert pipe.scheduler.config.prediction_type == "epsilon"
    image = pipe("wood_elf, 1girl", num_inference_steps=2, width=48, height=64).images[0]
    assert image.size == (48, 64)


def test_the_tagger_has_the_interface_of_a_wd_tagger(folders: dict[str, Path]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folders["tagger"] / "model.onnx"))
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert given.shape == ["batch", 64, 64, 3]
    with (folders["tagger"] / "selected_tags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["category"] for row in rows[:4]] == ["9"] * 4
    assert {row["category"] for row in rows[4:]} == {"0", "4"}
    assert taken.shape == ["batch", len(rows)]
    pictures = np.random.default_rng(0).uniform(0, 255, (5, 64, 64, 3)).astype(np.float32)
    together = session.run(None, {given.name: pictures})[0]
    alone = np.concatenate([session.run(None, {given.name: one[None]})[0] for one in pictures])
    assert together.min() >= 0
    assert together.max() <= 1
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_tagger_file_computes_what_the_network_does(tmp_path: Path) -> None:
    import onnxruntime

    from elf.tiny.tagger import Tagger, save

    torch.manual_seed(0)
    tagger = Tagger()
    with torch.no_grad():
        for _ in range(3):  # batch norms with something in them
            tagger(torch.rand(16, 64, 64, 3) * 255)
    save(tagger, tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    pictures = torch.rand(4, 64, 64, 3) * 255
    with torch.no_grad():
        expected = torch.sigmoid(tagger(pictures)).numpy()
    given = session.run(None, {"input": pictures.numpy()})[0]
    np.testing.assert_allclose(given, expected, atol=2e-3)  # weights are stored in float16


def test_the_captioner_is_prompted_like_florence(
    folders: dict[str, Path], picture: Image.Image
) -> None:
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folders["captioner"])
    model = Florence2ForConditionalGeneration.from_pretrained(folders["captioner"])
    assert model.dtype == torch.float32
    inputs = processor(text="<DETAILED_CAPTION>", images=picture, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False, num_beams=1)
    assert processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def test_clip_compares_picture_and_text(folders: dict[str, Path], picture: Image.Image) -> None:
    from transformers import CLIPModel, CLIPProcessor

    processor = CLIPProcessor.from_pretrained(folders["clip"])
    model = CLIPModel.from_pretrained(folders["clip"])
    texts = ["a girl", "a boy in the snow"]
    inputs = processor(text=texts, images=[picture], return_tensors="pt", padding=True)
    assert model(**inputs).logits_per_image.shape == (1, 2)


def test_every_word_of_the_world_is_one_token() -> None:
    clip, bart = clip_tokenizer(vocabulary()), bart_tokenizer(vocabulary())
    for word in vocabulary():
        assert len(clip.tokenize(word)) == 1
        assert len(bart.tokenize(f" {word}")) == 1


@pytest.mark.parametrize("text", ["wood_elf, 1girl", "zyzzyva é 龍", "merlin_(legend) ^_^"])
def test_any_text_tokenizes_and_comes_back(text: str) -> None:
    clip, bart = clip_tokenizer(vocabulary()), bart_tokenizer(vocabulary())
    assert clip.unk_token_id not in clip(text)["input_ids"][1:-1]
    assert bart.decode(bart(text)["input_ids"], skip_special_tokens=True) == text
