"""Single-file checkpoints: each tensor where it belongs, and what is none is refused by name."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from elf.bases import FAMILIES, Base, open_base
from elf.errors import ElfError
from elf.tiny.singlefile import single_file

REFUSED = "; Elf trains Stable Diffusion 1.5 and Stable Diffusion XL"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folders(tiny_models: dict[str, Path], tiny_sdxl: Path) -> dict[str, Path]:
    return {"sd15": tiny_models["base"], "sdxl": tiny_sdxl}


@pytest.fixture(scope="module")
def written(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny bases, each as one file."""
    place = tmp_path_factory.mktemp("files")
    files = {}
    for family, folder in folders.items():
        base = open_base(str(folder))
        pipeline = base.pipeline(base.unet(torch.float32))
        files[family] = single_file(pipeline, family, place / f"{family}.safetensors")
    return files


@pytest.fixture
def changed(written: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a copy of a file with its tensors, or its metadata, changed."""

    def write(
        family: str, change: Callable[[Tensors], Any], metadata: dict[str, str] | None = None
    ) -> Path:
        tensors = load_file(written[family])
        change(tensors)
        save_file(tensors, tmp_path / "other.safetensors", metadata)
        return tmp_path / "other.safetensors"

    return write


def networks(base: Base, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    encoders = {name: base.text_encoder(name, dtype) for name in base.text_encoder_names}
    return {"unet": base.unet(dtype), "vae": base.vae(), **encoders}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_tensor_is_that_of_the_folder(
    family: str, folders: dict[str, Path], written: dict[str, Path]
) -> None:
    single = open_base(str(written[family]), configs=str(folders[family]))
    assert single.family == family
    expected = networks(open_base(str(folders[family])))
    for part, network in networks(single).items():
        assert not network.training
        state, wanted = network.state_dict(), expected[part].state_dict()
        assert state.keys() == wanted.keys()
        assert [name for name in state if not torch.equal(state[name], wanted[name])] == []


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_reads_the_same_from_the_file(
    family: str, folders: dict[str, Path], written: dict[str, Path]
) -> None:
    """The names and shapes are the real ones, not only those that Elf's two directions agree on."""
    cls = getattr(diffusers, FAMILIES[family].pipeline)
    pipe = cls.from_single_file(
        str(written[family]),
        config=str(folders[family]),
        local_files_only=True,
        dtype=torch.float32,
    )
    single = open_base(str(written[family]), configs=str(folders[family]))
    for part, network in networks(single).items():
        wanted = getattr(pipe, part).state_dict()
        state = network.state_dict()
        assert state.keys() == wanted.keys()
        assert [name for name in state if not torch.equal(state[name], wanted[name])] == []


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_it_samples_and_encodes_as_the_folder_does(
    family: str, folders: dict[str, Path], written: dict[str, Path]
) -> None:
    bases = [
        open_base(str(folders[family])),
        open_base(str(written[family]), configs=str(folders[family])),
    ]
    pictures, states = [], []
    for base in bases:
        pipe = base.pipeline(base.unet(torch.float32))
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "width": 64, "height": 64, "output_type": "pt"}
        pictures.append(pipe("wood_elf", generator=generator, **options).images)
        states.append(base.encoder(torch.device("cpu")).encode_captions(["wood_elf"]))
    torch.testing.assert_close(*pictures, rtol=0, atol=0)
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_weights_are_loaded_in_the_type_asked_for(
    folders: dict[str, Path], written: dict[str, Path]
) -> None:
    base = open_base(str(written["sdxl"]), configs=str(folders["sdxl"]))
    for part, network in networks(base, torch.float16).items():
        types = {parameter.dtype for parameter in network.parameters()}
        assert types == {torch.float32 if part == "vae" else torch.float16}


def test_marks_of_v_prediction_are_read(
    changed: Callable[..., Path], folders: dict[str, Path]
) -> None:
    configs = str(folders["sdxl"])

    def mark(*names: str) -> Callable[[Tensors], None]:
        return lambda tensors: tensors.update({name: torch.zeros(0) for name in names})

    marked = open_base(str(changed("sdxl", mark("v_pred", "ztsnr"))), configs=configs)
    assert (marked.prediction_type, marked.zero_terminal_snr) == ("v_prediction", True)
    assert marked.noise_schedule.alphas_cumprod[-1] == 0
    marked = open_base(str(changed("sdxl", mark("v_pred"))), configs=configs)
    assert (marked.prediction_type, marked.zero_terminal_snr) == ("v_prediction", False)
    overruled = open_base(marked.name, prediction_type="epsilon", configs=configs)
    assert overruled.prediction_type == "epsilon"
    stated = changed("sdxl", mark(), {"modelspec.prediction_type": "v"})
    assert open_base(str(stated), configs=configs).prediction_type == "v_prediction"


def test_names_without_a_level_of_clip_are_understood(
    changed: Callable[..., Path], folders: dict[str, Path], written: dict[str, Path]
) -> None:
    start = "cond_stage_model.transformer.text_model."

    def shorten(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(start)]:
            tensors["cond_stage_model.transformer." + key.removeprefix(start)] = tensors.pop(key)

    configs = str(folders["sd15"])
    old = open_base(str(changed("sd15", shorten)), configs=configs)
    usual = open_base(str(written["sd15"]), configs=configs)
    first, second = (b.text_encoder("text_encoder", torch.float32) for b in (old, usual))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_fingerprints_are_of_a_parts_tensors_alone(
    changed: Callable[..., Path], folders: dict[str, Path], written: dict[str, Path]
) -> None:
    configs = str(folders["sdxl"])

    def hashes(path: Path) -> dict[str, str]:
        base = open_base(str(path), configs=configs)
        parts = {part: base.fingerprint(part) for part in FAMILIES["sdxl"].parts}
        return parts | {f"cached {name}": h for name, h in base.encoder_fingerprints().items()}

    before = hashes(written["sdxl"])
    assert len(set(before.values())) == len(before)
    other = hashes(changed("sdxl", lambda t: t["model.diffusion_model.out.2.bias"].add_(1)))
    assert {name for name in before if before[name] != other[name]} == {"unet"}
    other = hashes(changed("sdxl", lambda t: t["first_stage_model.quant_conv.bias"].add_(1)))
    assert {name for name in before if before[name] != other[name]} == {"vae", "cached vae"}
    key = "conditioner.embedders.1.model.ln_final.bias"
    other = hashes(changed("sdxl", lambda t: t[key].add_(1)))
    assert {n for n in before if before[n] != other[n]} == {"text_encoder_2", "cached text"}


def only(*keys: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors.clear()
        tensors.update({key: torch.zeros(2, 4, 1) for key in keys})

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.update(edm_mean=torch.zeros(4)), "a base of the EDM formulation (Playground"),
        (only("lora_unet_mid_block.alpha"), "a LoRA, which is trained on a base"),
        (only("unet.conv.lora_A.weight"), "an adapter in diffusers' format"),
        (only("control_model.time_embed.0.weight"), "a ControlNet"),
        (only("emb_params"), "a textual inversion"),
        (only("model.diffusion_model.double_blocks.0.x", "a"), "FLUX or one of its relatives"),
        (only("model.diffusion_model.joint_blocks.0.x"), "Stable Diffusion 3"),
        (only("conditioner.embedders.0.model.ln_final.bias"), "the refiner of SDXL"),
        (only("cond_stage_model.model.ln_final.bias"), "a single file of Stable Diffusion 2"),
        (only("down_blocks.0.x"), "a diffusers UNet without the rest of its pipeline"),
        (only("surprise"), "no checkpoint that Elf knows (it holds surprise)"),
    ],
)
def test_other_files_are_refused_by_name(
    changed: Callable[..., Path], change: Callable[[Tensors], None], what: str
) -> None:
    path = changed("sdxl", change)
    with pytest.raises(ElfError) as error:
        open_base(str(path))
    assert str(error.value).startswith(f"base model: {path} is {what}")
    assert str(error.value).endswith(REFUSED)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_inpainting_file_is_refused_by_name(changed: Callable[..., Path], family: str) -> None:
    key = "model.diffusion_model.input_blocks.0.0.weight"
    path = changed(family, lambda t: t.update({key: torch.zeros(8, 9, 3, 3)}))
    with pytest.raises(ElfError) as error:
        open_base(str(path))
    assert str(error.value) == (
        f"base model: {path} is an inpainting base (its UNet takes 9 channels, not 4){REFUSED}"
    )


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("first_stage_model.", "has no VAE (no tensor first_stage_model.…); take the full"),
        ("model.diffusion_model.", "has no UNet (no tensor model.diffusion_model.…)"),
        ("cond_stage_model.", "has a UNet but no text encoder that Elf knows; take the full"),
    ],
)
def test_a_file_without_a_part_is_refused(
    changed: Callable[..., Path], start: str, message: str
) -> None:
    def without(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(start)]:
            del tensors[key]

    path = changed("sd15", without)
    with pytest.raises(ElfError) as error:
        open_base(str(path))
    assert str(error.value).startswith(f"base model: {path} {message}")


def test_a_missing_or_other_tensor_is_named(
    changed: Callable[..., Path], folders: dict[str, Path]
) -> None:
    key, configs = "model.diffusion_model.time_embed.2.bias", str(folders["sd15"])
    path = changed("sd15", lambda tensors: tensors.pop(key))
    with pytest.raises(ElfError) as error:
        open_base(str(path), configs=configs).unet(torch.float32)
    assert str(error.value) == (
        f"base model: {path} has no {key} (unet); it is cut down, or of another architecture "
        "than it seems"
    )
    path = changed("sd15", lambda tensors: tensors.update({key: torch.zeros(3)}))
    with pytest.raises(ElfError) as error:
        open_base(str(path), configs=configs).unet(torch.float32)
    assert str(error.value) == (
        f"base model: {path} has {key} (unet) of shape (3,), not (256,); it is of another "
        "architecture than it seems"
    )


@pytest.mark.fault(15)
def test_a_missing_file_and_a_pickle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ElfError) as error:
        open_base(str(tmp_path / "no.safetensors"))
    assert str(error.value) == (
        f"base model: no file {tmp_path}/no.safetensors; give a file, a folder or a hub name"
    )
    with pytest.raises(ElfError, match=r"model.ckpt is a pickle, which can run code .* convert it"):
        open_base(str(tmp_path / "model.ckpt"))


def test_the_way_to_convert_a_pickle_works(
    written: dict[str, Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    import shlex
    import subprocess
    import sys

    tensors = load_file(written["sd15"])
    torch.save({"state_dict": {**tensors, "step": 3}}, tmp_path / "old.ckpt")
    with pytest.raises(ElfError) as error:
        open_base(str(tmp_path / "old.ckpt"))
    command = shlex.split(str(error.value).partition("convert it once: ")[2])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    base = open_base(str(tmp_path / "old.safetensors"), configs=str(folders["sd15"]))
    usual = open_base(str(written["sd15"]), configs=str(folders["sd15"]))
    assert base.fingerprint("unet") == usual.fingerprint("unet")


def test_damaged_files_are_one_line(written: dict[str, Path], tmp_path: Path) -> None:
    data = written["sd15"].read_bytes()
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data[:-1])
    with pytest.raises(ElfError) as error:
        open_base(str(path))
    assert str(error.value) == (
        f"base model: {path} ends after {len(data) - 1:,} of {len(data):,} bytes; download it again"
    )
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    for broken in (b"", data[:100], pointer, struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(broken)
        with pytest.raises(ElfError) as error:
            open_base(str(path))
        assert str(error.value) == (
            f"base model: {path} is no safetensors file, or is damaged; download it again"
        )


def test_configs_are_for_single_files(folders: dict[str, Path], written: dict[str, Path]) -> None:
    with pytest.raises(ElfError, match=r"configs: .* is no single file; a folder has its own"):
        open_base(str(folders["sd15"]), configs=str(folders["sd15"]))
    with pytest.raises(ElfError, match="base model's configs: no folder /no/such"):
        open_base(str(written["sd15"]), configs="/no/such")


def test_an_incomplete_folder_of_configs_is_named(
    folders: dict[str, Path], written: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders["sd15"], tmp_path / "configs"))
    shutil.rmtree(copy / "tokenizer")
    base = open_base(str(written["sd15"]), configs=str(copy))
    with pytest.raises(ElfError, match=f"no folder {copy}/tokenizer; is it the right folder"):
        base.encoder_fingerprints()
    (copy / "unet/config.json").unlink()
    with pytest.raises(ElfError, match=f"no file {copy}/unet/config.json; is it the right folder"):
        base.unet(torch.float32)
