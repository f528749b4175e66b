"""The exported file: exact in diffusers' own loader, refused when it cannot work."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from elf import cli
from elf.adapters import AdapterConfig
from elf.errors import ElfError
from elf.export import METADATA_KEY, export_diffusers, read_adapter, read_origin
from elf.generation import GenerationConfig
from elf.modules.diffusion import DiffusionModule
from elf.training.checkpoints import read_checkpoint
from elf.verify import picture_difference

SAMPLING = GenerationConfig(steps=4, guidance=3.0, width=64, height=64, batch_size=2)
PROMPTS = ["wood_elf, forest", "forest"]


@pytest.fixture(params=["lora", "dora"])
def checkpoint(
    request: pytest.FixtureRequest, tiny_models: dict[str, Path], tmp_path: Path
) -> Path:
    """A checkpoint of an adapter with strong random values, alpha ≠ rank, trained with dropout."""
    config = AdapterConfig(kind=request.param, rank=4, alpha=2, dropout=0.5)
    module = DiffusionModule(str(tiny_models["base"]), config)
    module.configure_model()
    state = module.state_dict()
    random = torch.Generator().manual_seed(0)
    for key, tensor in state.items():
        if ".lora_B." in key:
            tensor.normal_(0, 0.2, generator=random)
        elif "magnitude" in key:
            tensor.mul_(1.2)
    content = {"state_dict": state}
    module.on_save_checkpoint(content)
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save(content, path)
    return path


def test_diffusers_makes_the_same_pictures_from_the_file(
    checkpoint: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    base = str(tiny_models["base"])
    file = export_diffusers(checkpoint, tmp_path / "out", "float32")
    assert file.name == "pytorch_lora_weights.safetensors"
    assert picture_difference(base, checkpoint, file, PROMPTS, SAMPLING) <= 1e-4
    half = export_diffusers(checkpoint, tmp_path / "half.safetensors", "float16")
    assert half.stat().st_size < file.stat().st_size
    assert picture_difference(base, checkpoint, half, PROMPTS, SAMPLING) < 0.02


def test_the_difference_is_seen_when_alpha_is_lost(
    checkpoint: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """The check can fail: without the header diffusers takes alpha = rank."""
    file = export_diffusers(checkpoint, tmp_path / "out", "float32")
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}
    lost = tmp_path / "lost.safetensors"
    save_file({k: v for k, v in tensors.items() if "magnitude" not in k}, lost)
    assert picture_difference(str(tiny_models["base"]), checkpoint, lost, PROMPTS, SAMPLING) > 0.02


def test_a_run_folder_stands_for_its_last_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    file = export_diffusers(checkpoint.parent.parent, tmp_path / "x.safetensors", "float32")
    config, state = read_adapter(file)
    original = read_checkpoint(checkpoint)
    assert (config.rank, config.alpha) == (4, 2)
    assert config.kind == original["elf"]["adapter"]["kind"]
    assert state.keys() == original["state_dict"].keys()
    for key, tensor in state.items():
        assert torch.equal(tensor, original["state_dict"][key])


def test_the_header_has_what_loaders_need(checkpoint: Path, tmp_path: Path) -> None:
    with safe_open(export_diffusers(checkpoint, tmp_path), "pt") as file:
        header = json.loads(file.metadata()[METADATA_KEY])
        magnitudes = [file.get_tensor(k).dtype for k in file.keys() if "magnitude" in k]
    assert header["unet.r"] == 4
    assert header["unet.lora_alpha"] == 2
    assert set(magnitudes) <= {torch.float32}


def test_a_file_says_which_base_it_is_of(checkpoint: Path, tmp_path: Path) -> None:
    known = read_checkpoint(checkpoint)["elf"]
    file = export_diffusers(checkpoint, tmp_path / "out")
    assert read_origin(file) == (known["base_options"], known["base_sha256"])
    content = torch.load(checkpoint, weights_only=True)
    content["elf"]["base_options"]["base_configs"] = "/home/somebody/configs"
    torch.save(content, checkpoint)
    assert b"somebody" not in export_diffusers(checkpoint, tmp_path / "out").read_bytes()
    assert read_origin(file.parent) == read_origin(file)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    assert read_origin(foreign) == ({}, None)


def test_a_runs_own_checkpoint_comes_before_a_file_beside_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    run = checkpoint.parent.parent
    export_diffusers(checkpoint, run, "float32")
    change(checkpoint, lora_B=1.0)
    state = read_adapter(run)[1]
    assert all(t.eq(1).all() for key, t in state.items() if "lora_B" in key)


def change(checkpoint: Path, **changes: float) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for key, tensor in content["state_dict"].items():
        for part, value in changes.items():
            if part in key:
                tensor.fill_(value)
    torch.save(content, checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_B": 0.0}, "the adapter changes nothing (ΔW = 0); train it first"),
        ({"lora_A": float("nan")}, "is not finite; export an earlier checkpoint"),
        ({"lora_A": 1e6}, "overflows in torch.float16; export with --dtype float32"),
    ],
)
def test_what_cannot_work_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, float], message: str
) -> None:
    change(checkpoint, **changes)
    with pytest.raises(ElfError, match=re.escape(message)):
        export_diffusers(checkpoint, tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_files_that_are_no_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"adapter: no file .*none\.safetensors"):
        read_adapter(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ElfError, match=r"x\.safetensors is no safetensors file"):
        read_adapter(tmp_path / "x.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "y.safetensors")
    with pytest.raises(ElfError, match=r"has no lora_adapter_metadata; export it again by `elf"):
        read_adapter(tmp_path / "y.safetensors")
    header = {METADATA_KEY: json.dumps({"unet.r": 1})}
    save_file({"unet.a.lora_A.weight": torch.zeros(1)}, tmp_path / "z.safetensors", header)
    with pytest.raises(
        ElfError, match=r"the lora_adapter_metadata of .*z\.safetensors lacks 'unet.alp"
    ):
        read_adapter(tmp_path / "z.safetensors")
    save_file({"vae.a": torch.zeros(1)}, tmp_path / "v.safetensors", header)
    with pytest.raises(
        ElfError, match=r"adapter: vae\.a is of no network that Elf trains \(unet, "
    ):
        read_adapter(tmp_path / "v.safetensors")


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "elf.safetensors"
    cli.main(["export", "--input", str(checkpoint), "--output", str(output)])
    assert f"wrote {output}" in capsys.readouterr().out
    for arguments, message in (
        (["--inptu", "x"], "unknown key 'inptu'; did you mean 'input'?"),
        (
            ["--input", "nowhere", "--output", "y"],
            "adapter: no run folder or checkpoint nowhere; give",
        ),
        (["--output", "y"], "'input' is required"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["export", *arguments])
        assert message in capsys.readouterr().err


def test_pictures_do_not_depend_on_the_batch_size(tiny_models: dict[str, Path]) -> None:
    module = DiffusionModule(str(tiny_models["base"]))
    module.configure_model()
    together = module.generate(["a", "b", "c"], SAMPLING)
    alone = module.generate(["b"], GenerationConfig(**{**vars(SAMPLING), "seed": 1}))
    difference = np.abs(np.asarray(together[1]).astype(int) - np.asarray(alone[0]).astype(int))
    assert difference.max() <= 1
