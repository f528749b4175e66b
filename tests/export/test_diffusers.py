"""diffusers' real loader has the trained weights, a file is verified, and a plan says its keys."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elf import cli
from elf.adapters import AdapterConfig, AdapterGroup
from elf.bases import open_base
from elf.bases.header import Header
from elf.errors import ElfError
from elf.export import METADATA_KEY
from elf.export.diffusers_form import verify_diffusers, write_diffusers
from elf.export.peft_form import export_peft
from elf.export.trained import read_trained
from elf.export.writing import write_file

ALL, TEXT = "attention+feedforward+convolutions", "attention+feedforward"
GROUPS = [AdapterGroup("to_q", rank=2), AdapterGroup("*.attn2.to_k", rank=3, alpha=5)]
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=ALL, text_targets=TEXT, groups=GROUPS),
    "dora": AdapterConfig("dora", 4, 3, ALL, text_targets=TEXT),
    "rslora": AdapterConfig(rank=4, alpha=3, rslora=True),
    "pissa": AdapterConfig("dora", rank=4, alpha=3, init="pissa"),
}
Make = Callable[[str, AdapterConfig], Any]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_its_loader_has_the_trained_weights(
    family: str, name: str, run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(family, CONFIGS[name])
    file = write_diffusers(read_trained(made.folder), tmp_path / "out", "float32", verify=True)
    said = capsys.readouterr().out
    assert re.search(
        rf"verified: {len(made.after)} layers, off by (0\.0e\+00|\S+e-0[789]) at", said
    )
    base = open_base(str(made.base))
    fresh = base.pipeline(base.unet(torch.float32))
    fresh.load_lora_weights(str(file.parent), weight_name=file.name)
    fresh.fuse_lora(components=["unet", *base.text_encoder_names])
    for label, expected in made.after.items():
        part, _, layer = label.partition(".")
        layers = dict(getattr(fresh, part).named_modules())
        found: Any = layers.get(layer) or layers[f"text_model.{layer}"]
        weight = getattr(found, "base_layer", found).weight
        off = (weight - expected).norm()
        assert off <= 1e-5 * expected.norm(), label
        assert off <= 1e-3 * (expected - made.before[label]).norm(), label


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet.lora_alpha": 4}, r"verify: unet\.\S+ of .* is off by 33\.3% of its update, or of"),
        ({"unet.use_rslora": True}, r"verify: unet\.\S+ of .* is off by 100\.0% of its update"),
        ({"unet.r": 8}, r"verify: unet\.\S+ of .* is off by 50\.0% of its update, or of another r"),
        ({"unet.use_dora": False}, r"off by \d\.\d% of its update, or of another rank"),
        ({"lora_magnitude_vector.weight": 1.1}, r"of another rank or magnitude; the file is not"),
        ({"lora_A.weight": float("nan")}, r"is off by nan% of its update"),
        ({"": None}, r"verify: .* lacks \S+to_\w"),
        ({"lora_B.weight": None}, r"verify: .* lacks \S+to_\w"),
        ({"unet.nowhere.lora_A.weight": 1}, r"verify: .* has nowhere"),
    ],
)  # fmt: skip
def test_what_is_not_what_was_trained_is_refused(
    change: dict[str, Any], message: str, run: Make, tmp_path: Path
) -> None:
    made = run("sd15", AdapterConfig("dora", 4, 3))
    trained = read_trained(made.folder)
    file = write_diffusers(trained, tmp_path / "out", "float32")
    tensors, header = load_file(file), Header.read(file).metadata
    ((key, value),) = change.items()
    settings = json.loads(header[METADATA_KEY])
    if key in settings:
        settings[key] = value
    elif key.startswith("unet."):
        tensors[key] = torch.ones(1)
    elif value is None:
        name = next(iter(tensors)).rpartition(".lora_")[0]
        tensors = {k: t for k, t in tensors.items() if not (name in k and k.endswith(key))}
    else:
        name = next(each for each in tensors if each.endswith(key))
        tensors[name] = tensors[name] * value
    write_file(file, tensors, {METADATA_KEY: json.dumps(settings)})
    with pytest.raises(ElfError, match=message):
        verify_diffusers(file, trained.layers, "float32")


def test_a_form_of_peft_is_verified_and_else_not_kept(
    run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run("sdxl", CONFIGS["dora"])
    trained = read_trained(made.folder)
    export_peft(trained, tmp_path / "peft", "float32", verify=True)
    said = capsys.readouterr().out
    assert re.search(
        rf"verified: {len(made.after)} layers, off by (0\.0e\+00|\S+e-0[789]) at", said
    )
    real = write_file
    monkeypatch.setattr(
        "elf.export.peft_form.write_file",
        lambda path, tensors, header: real(path, {k: 2 * t for k, t in tensors.items()}, header),
    )
    with pytest.raises(ElfError, match=r"verify: \S+ of .* is off by 300\.0% of its update"):
        export_peft(trained, tmp_path / "other", "float32", verify=True)
    assert not list((tmp_path / "other").rglob("*.safetensors*"))


@pytest.mark.parametrize("target", ["diffusers", "peft", "merged"])
def test_a_plan_says_the_keys_and_writes_nothing(
    target: str, run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run("sdxl", CONFIGS["lora"])
    output = tmp_path / "x"
    given = ["export", "--input", str(made.folder), "--output", str(output), "--target", target]
    cli.main([*given, "--plan", "true"])
    lines = capsys.readouterr().out.splitlines()
    assert not output.exists()
    cli.main(given)
    planned = dict(re.fullmatch(r"(.+?)((?: \d+)+)", line).groups() for line in lines)  # type: ignore[union-attr]
    written: dict[str, str] = {}
    for file in output.rglob("*.safetensors"):
        start = "" if target == "diffusers" else f"{file.parent.name}/{file.name}: "
        for key, shape in Header.read(file).shapes.items():
            written[start + key] = "".join(f" {side}" for side in shape)
    if target == "merged":  # of a base those tensors that are changed
        assert len(planned) == len(made.after) and planned.items() <= written.items()
    else:
        assert planned == written
