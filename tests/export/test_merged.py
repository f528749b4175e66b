"""A base with the adapter in its weights is a base like any other, with W' in place of W."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elf import cli
from elf.adapters import AdapterConfig
from elf.adapters.presets import canonical
from elf.bases import open_base
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.command import write_merged
from elf.export.merged_form import export_merged
from elf.export.trained import read_trained
from elf.export.verifying import verify_merged
from elf.tiny.singlefile import single_file

ALL, TEXT = "attention+feedforward+convolutions", "attention+feedforward"
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=ALL, text_targets=TEXT),
    "dora": AdapterConfig("dora", 4, 3, ALL, text_targets=TEXT),
    "dora, input axis": AdapterConfig("dora", 4, 3, ALL, axis="input", text_targets=TEXT),
}
Make = Callable[[str, AdapterConfig], Any]


def weights(base: Path) -> dict[str, torch.Tensor]:
    """All weights of a base, by their names in the pipeline."""
    opened, found = open_base(str(base)), {}
    networks = {"unet": opened.unet(torch.float32), "vae": opened.vae()}
    networks |= {n: opened.text_encoder(n, torch.float32) for n in opened.text_encoder_names}
    for part, network in networks.items():
        for name, tensor in network.state_dict().items():
            found[f"{part}.{canonical(name)}"] = tensor
    return found


def assert_merged(made: Any, base: Path, merged: Path, rounding: float) -> None:
    before, after = weights(base), weights(merged)
    assert before.keys() == after.keys()
    changed = {f"{name}.weight" for name in made.after}
    for name, tensor in after.items():
        if name not in changed:
            assert torch.equal(tensor, before[name]), name
    for label, expected in made.after.items():
        off = (after[f"{label}.weight"] - expected).norm()
        assert off <= rounding * expected.norm()
        if rounding < 1e-4:
            assert off <= 1e-3 * (expected - made.before[label]).norm()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_folder_is_one_again(family: str, name: str, run: Make, tmp_path: Path) -> None:
    made = run(family, CONFIGS[name])
    output = write_merged(read_trained(made.folder), str(made.base), tmp_path / "m", "float32")
    assert_merged(made, made.base, output, 1e-5)
    for file in made.base.rglob("*"):
        assert (output / file.relative_to(made.base)).exists(), file
    half = write_merged(read_trained(made.folder), str(made.base), tmp_path / "half", "float16")
    assert load_file(next((half / "unet").glob("*.safetensors")))["conv_in.bias"].dtype == (
        torch.float16
    )
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_single_file_is_one_again(family: str, run: Make, tmp_path: Path) -> None:
    """Its tensors are float16, as those of published ones are; q, k and v of one lie in one."""
    made = run(family, CONFIGS["lora"])
    opened = open_base(str(made.base))
    pipeline = opened.pipeline(opened.unet(torch.float32))
    base = single_file(pipeline, family, tmp_path / "base.safetensors")
    trained = read_trained(made.folder)
    # the run knows another base: one of the same weights in 32 bit
    options = {**trained.base_options, "base_configs": str(made.base)}
    trained = replace(trained, base_sha256=None, base_options=options)
    output = write_merged(trained, str(base), tmp_path / "merged.safetensors")
    before, after = load_file(base), load_file(output)
    assert before.keys() == after.keys()
    assert {key: (t.dtype, t.shape) for key, t in before.items()} == {
        key: (t.dtype, t.shape) for key, t in after.items()
    }
    found = open_base(str(output), configs=str(made.base))
    networks = {"unet": found.unet(torch.float32)}
    networks |= {n: found.text_encoder(n, torch.float32) for n in found.text_encoder_names}
    for label, expected in made.after.items():
        part, _, name = label.partition(".")
        layers = {canonical(key): module for key, module in networks[part].named_modules()}
        weight: Any = layers[name].weight
        assert (weight - expected).norm() <= 2e-3 * expected.norm()
        assert (weight - made.before[label]).norm() > 1e-2 * expected.norm()


def test_a_text_encoder_keeps_the_layers_that_training_left_out(
    run: Make, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    made = run("sd15", AdapterConfig(rank=4, text_targets="attention"))
    trained = read_trained(made.folder)
    trained = replace(trained, base_options={**trained.base_options, "clip_skip": 2})
    output = write_merged(trained, str(made.base), tmp_path / "m", "float32")
    assert_merged(made, made.base, output, 1e-5)


def test_what_is_there_is_not_overwritten(run: Make, tmp_path: Path) -> None:
    made = run("sd15", CONFIGS["lora"])
    (tmp_path / "m").mkdir()
    with pytest.raises(ElfError, match=r"output: .*m is there already; name a new one"):
        write_merged(read_trained(made.folder), str(made.base), tmp_path / "m")
    with pytest.raises(ElfError, match=r"is a folder, so what is merged is one; name one"):
        write_merged(read_trained(made.folder), str(made.base), tmp_path / "m.safetensors")


def test_weights_that_are_not_those_of_the_training_are_refused(run: Make, tmp_path: Path) -> None:
    made = run("sd15", CONFIGS["lora"])
    trained = read_trained(made.folder)
    basis = Basis(str(made.base), trained)
    message = r"verify: unet\.\S+ of .* is off by \d+\.\d% of its weight; what was written is not"
    with pytest.raises(ElfError, match=message):
        verify_merged(trained.layers, basis, basis, "float16")  # nothing was merged into it


def test_a_layer_that_the_base_lacks_is_named(run: Make, tmp_path: Path) -> None:
    made = run("sd15", CONFIGS["lora"])
    trained = read_trained(made.folder)
    lost = [replace(trained.layers[0], name="up_blocks.9.to_q")]
    basis = Basis(str(made.base), trained)
    with pytest.raises(ElfError, match=r"base: .* has no layer unet\.up_blocks\.9\.to_q"):
        export_merged(lost, basis, tmp_path / "m", "float32")
    opened = open_base(str(made.base))
    single_file(opened.pipeline(opened.unet(torch.float32)), "sd15", tmp_path / "b.safetensors")
    options = {**trained.base_options, "base_configs": str(made.base)}
    other = replace(trained, base_sha256=None, base_options=options)
    basis = Basis(str(tmp_path / "b.safetensors"), other)
    with pytest.raises(ElfError, match=r"base: .* has no layer unet\.up_blocks\.9\.to_q"):
        export_merged(lost, basis, tmp_path / "m.safetensors", "float32")


def test_all_targets_at_once(run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("sdxl", AdapterConfig(rank=4, alpha=3))
    out = tmp_path / "out"
    given = ["export", "--input", str(made.folder), "--output", str(out)]
    cli.main([*given, "--target", "diffusers,kohya,comfy,peft,merged"])
    said = capsys.readouterr().out
    assert re.search(r"verified: \d+ layers, off by \S+ of W' at most, and by \S+ of W' − W", said)
    assert {path.name for path in out.iterdir()} == {
        "pytorch_lora_weights.safetensors",
        "wood_elf.safetensors",
        "peft",
        "merged",
    }
    one = hashlib.sha256((out / "wood_elf.safetensors").read_bytes()).hexdigest()
    cli.main([*given[:-1], str(tmp_path / "again"), "--target", "comfy"])
    again = (tmp_path / "again" / "wood_elf.safetensors").read_bytes()
    assert hashlib.sha256(again).hexdigest() == one


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--target", "komfy"], "target: 'komfy' is none; take some of diffusers, kohya, comfy,"),
        (["--target", "peft,kohya"], "x.safetensors is one file for several targets; name a fold"),
        (["--target", "peft", "--rank", "4"], "rank: peft has none; add --target kohya"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str], message: str, run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run("sd15", AdapterConfig(rank=4))
    output = str(tmp_path / "x.safetensors")
    with pytest.raises(SystemExit):
        cli.main(["export", "--input", str(made.folder), "--output", output, *more])
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
