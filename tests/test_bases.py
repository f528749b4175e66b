"""A base as it comes from the hub: parts that are not needed, parts that are missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from elf.bases import FILES, StableDiffusionBase
from elf.errors import ElfError


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny base that names a safety checker it does not have, as downloads do."""
    copy = tmp_path / "base"
    shutil.copytree(tiny_models["base"], copy)
    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["requires_safety_checker"] = True
    (copy / "model_index.json").write_text(json.dumps(index))
    return copy


def test_a_safety_checker_is_not_needed(folder: Path) -> None:
    base = StableDiffusionBase(str(folder))
    pipeline = base.pipeline(base.unet(torch.float32), torch.float32)
    assert pipeline.safety_checker is None
    picture = pipeline("a", num_inference_steps=1, width=64, height=64).images[0]
    assert picture.size == (64, 64)


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith("*")])
def test_a_missing_part_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ElfError) as error:
        StableDiffusionBase(str(folder))
    assert str(error.value) == f"base model: {folder} has no {file}; is it the right folder?"


def test_damaged_weights_are_one_line(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ElfError, match=r"base model \(unet\): .* could not be loaded"):
        StableDiffusionBase(str(folder)).unet(torch.float32)


def test_fingerprints_change_with_all_that_decides_the_caches(folder: Path) -> None:
    before = StableDiffusionBase(str(folder)).encoder_fingerprints()
    config = folder / "vae/config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "scaling_factor": 0.5}))
    tokenizer = next(path for path in (folder / "tokenizer").iterdir() if path.suffix == ".json")
    tokenizer.write_text(tokenizer.read_text() + " ")
    after = StableDiffusionBase(str(folder)).encoder_fingerprints()
    assert before.keys() == after.keys() == {"vae", "text"}
    assert all(before[part] != after[part] for part in before)


def test_latents_are_scaled_and_captions_cut(folder: Path) -> None:
    encoder = StableDiffusionBase(str(folder)).encoder(torch.device("cpu"))
    pixels = torch.rand(2, 3, 64, 32) * 2 - 1
    mean, std = encoder.encode_pictures(pixels)
    factor = encoder.latent_factor
    assert mean.shape == std.shape == (2, 4, 64 // factor, 32 // factor)
    with torch.inference_mode():
        posterior = encoder.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, posterior.mean * encoder.vae.config.scaling_factor)
    assert (std > 0).all()
    states = encoder.encode_captions(["a", "word " * 500])
    assert states.shape[:2] == (2, encoder.tokenizer.model_max_length)
