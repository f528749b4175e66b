"""A base as it comes from the hub: parts that are not needed, parts that are missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from elf.bases import FAMILIES, open_base
from elf.bases.folder import config_files
from elf.errors import ElfError

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
FILES = {
    "sd15": [*config_files(FAMILIES["sd15"]), UNET, VAE, "text_encoder/model.safetensors"],
    "sdxl": ["text_encoder_2/config.json", "text_encoder_2/model.safetensors"],
}
REFUSED = "; Elf trains Stable Diffusion 1.5 and Stable Diffusion XL"


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny base that names a safety checker it does not have, as downloads do."""
    copy = tmp_path / "base"
    shutil.copytree(tiny_models["base"], copy)
    edit(
        copy / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    return copy


@pytest.fixture
def folders(folder: Path, tiny_sdxl: Path, tmp_path: Path) -> dict[str, Path]:
    return {"sd15": folder, "sdxl": Path(shutil.copytree(tiny_sdxl, tmp_path / "xl"))}


def test_the_family_is_known(folders: dict[str, Path]) -> None:
    bases = {name: open_base(str(path)) for name, path in folders.items()}
    assert {name: base.family for name, base in bases.items()} == {"sd15": "sd15", "sdxl": "sdxl"}
    assert bases["sd15"].text_encoder_names == ("text_encoder",)
    assert bases["sdxl"].text_encoder_names == ("text_encoder", "text_encoder_2")
    assert not bases["sd15"].conditions
    assert bases["sdxl"].conditions


def test_a_safety_checker_is_not_needed(folder: Path) -> None:
    base = open_base(str(folder))
    pipeline = base.pipeline(base.unet(torch.float32))
    assert pipeline.safety_checker is None
    picture = pipeline("a", num_inference_steps=1, width=64, height=64).images[0]
    assert picture.size == (64, 64)


@pytest.mark.parametrize(
    ("family", "file"),
    [(family, file) for family, files in FILES.items() for file in files if file[-1] != "*"],
)
def test_a_missing_part_is_named(folders: dict[str, Path], family: str, file: str) -> None:
    (folders[family] / file).unlink()
    with pytest.raises(ElfError) as error:
        open_base(str(folders[family]))
    assert (
        str(error.value) == f"base model: {folders[family]} has no {file}; is it the right folder?"
    )


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_missing_tokenizer_is_named(folders: dict[str, Path], part: str) -> None:
    shutil.rmtree(folders["sdxl"] / part)
    with pytest.raises(ElfError, match=rf"base model: .*xl has no {part}/\*"):
        open_base(str(folders["sdxl"]))


def test_a_folder_of_single_files_names_one(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").touch()
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(ElfError) as error:
        open_base(str(tmp_path))
    assert str(error.value) == (
        f"base model: {tmp_path} has no model_index.json, but single files; "
        f"name one of them: {tmp_path}/a.safetensors"
    )


@pytest.mark.fault(15)
def test_pickled_weights_are_refused(folder: Path) -> None:
    pickle = folder / "unet/diffusion_pytorch_model.bin"
    (folder / UNET).rename(pickle)
    with pytest.raises(ElfError, match=rf"base model: {pickle} is a pickle, which can run code"):
        open_base(str(folder))


def test_damaged_weights_are_one_line(folder: Path) -> None:
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ElfError, match=r"base model \(unet\): .* could not be loaded"):
        open_base(str(folder)).unet(torch.float32)


def test_damaged_configurations_are_one_line(folder: Path) -> None:
    (folder / "unet/config.json").write_text("{")
    with pytest.raises(ElfError, match=rf"base model: {folder}/unet/config.json is damaged"):
        open_base(str(folder))


@pytest.mark.parametrize(
    ("part", "file"), [("unet", UNET), ("text_encoder_2", "text_encoder_2/model.safetensors")]
)
def test_a_missing_tensor_is_named(
    folders: dict[str, Path], part: str, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folders["sdxl"] / file
    tensors = load_file(path)
    gone = sorted(tensors)[3]
    del tensors[gone]
    save_file(tensors, path, {"format": "pt"})
    base = open_base(str(folders["sdxl"]))
    with pytest.raises(ElfError) as error:  # both libraries only warn, and go on with random ones
        base.unet(torch.float32) if part == "unet" else base.text_encoder(part, torch.float32)
    assert str(error.value) == (
        f"base model: {path} has no {gone} ({part}; 1 missing); it is cut down, or does not "
        "belong to its config.json"
    )
    assert capfd.readouterr().err == "", "no report of many lines beside it"


@pytest.mark.parametrize(
    ("part", "file"), [("unet", UNET), ("text_encoder_2", "text_encoder_2/model.safetensors")]
)
def test_a_tensor_of_another_shape_is_named(
    folders: dict[str, Path], part: str, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folders["sdxl"] / file
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 1)
    shape = tuple(tensors[name].shape)
    tensors[name] = torch.zeros(3)
    save_file(tensors, path, {"format": "pt"})
    base = open_base(str(folders["sdxl"]))
    with pytest.raises(ElfError) as error:
        base.unet(torch.float32) if part == "unet" else base.text_encoder(part, torch.float32)
    assert str(error.value) == (
        f"base model: {path} has {name} ({part}) of shape (3,), not {shape}; it does not belong "
        "to its config.json"
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("pipeline", "what"),
    [
        ("StableDiffusionInpaintPipeline", "an inpainting base"),
        ("StableDiffusionXLImg2ImgPipeline", "the refiner of SDXL"),
        ("FluxPipeline", "FLUX"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("KandinskyPipeline", "a KandinskyPipeline"),
    ],
)
def test_other_families_are_refused_by_name(folder: Path, pipeline: str, what: str) -> None:
    edit(folder / "model_index.json", _class_name=pipeline)
    with pytest.raises(ElfError) as error:
        open_base(str(folder))
    assert str(error.value) == f"base model: {folder} is {what}{REFUSED}"


@pytest.mark.parametrize(
    ("channels", "what"), [(9, "an inpainting base"), (8, "an InstructPix2Pix"), (6, "another")]
)
def test_other_inputs_are_refused_whatever_the_pipeline_is_called(
    folder: Path, channels: int, what: str
) -> None:
    edit(folder / "unet/config.json", in_channels=channels)
    with pytest.raises(ElfError, match=rf"is {what}.* \(its UNet takes {channels} channels, not 4"):
        open_base(str(folder))


def test_a_variant_in_half_precision_will_do(folder: Path) -> None:
    whole = open_base(str(folder)).unet(torch.float32).state_dict()
    for file in (UNET, "text_encoder/model.safetensors"):
        path = folder / file
        path.rename(path.with_suffix(".fp16.safetensors"))
    base = open_base(str(folder))
    found = base.unet(torch.float32).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.items())
    assert base.text_encoder("text_encoder", torch.float16).dtype == torch.float16


def test_weights_in_several_files_are_found_and_hashed(folder: Path) -> None:
    base = open_base(str(folder))
    unet = base.unet(torch.float32)
    (folder / UNET).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="1MB")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    again = open_base(str(folder))
    state = again.unet(torch.float32).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in unet.state_dict().items())
    first = again.fingerprint("unet")
    shards[-1].write_bytes(shards[-1].read_bytes()[:-1] + b"\x01")
    assert open_base(str(folder)).fingerprint("unet") != first
    shards[0].unlink()
    with pytest.raises(ElfError, match=f"has no {UNET}"):
        open_base(str(folder))


def test_fingerprints_change_with_all_that_decides_the_caches(folders: dict[str, Path]) -> None:
    folder = folders["sdxl"]
    before = open_base(str(folder)).encoder_fingerprints()
    edit(folder / "vae/config.json", scaling_factor=0.5)
    tokenizer = next((folder / "tokenizer_2").glob("*.json"))
    tokenizer.write_text(tokenizer.read_text() + " ")
    after = open_base(str(folder)).encoder_fingerprints()
    assert before.keys() == after.keys() == {"vae", "text"}
    assert all(before[part] != after[part] for part in before)
    path = folder / "text_encoder_2/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    last = open_base(str(folder)).encoder_fingerprints()
    assert last["vae"] == after["vae"]
    assert last["text"] != after["text"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_latents_are_scaled(folders: dict[str, Path], family: str) -> None:
    encoder = open_base(str(folders[family])).encoder(torch.device("cpu"))
    pixels = torch.rand(2, 3, 64, 32) * 2 - 1
    mean, std = encoder.encode_pictures(pixels)
    factor = encoder.latent_factor
    assert mean.shape == std.shape == (2, 4, 64 // factor, 32 // factor)
    with torch.inference_mode():
        posterior = encoder.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, posterior.mean * encoder.vae.config.scaling_factor)
    assert (std > 0).all()
