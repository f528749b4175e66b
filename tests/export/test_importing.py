"""Files in kohya's form are read back as what was written, or refused."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elf import adapters, cli
from elf.adapters import AdapterConfig, AdapterGroup
from elf.bases import open_base
from elf.errors import ElfError
from elf.export import export_diffusers, read_adapter
from elf.export.command import export_kohya
from elf.export.trained import read_trained

ALL, TEXT = "attention+feedforward+convolutions", "attention+feedforward"
GROUPS = [AdapterGroup("to_q", rank=2), AdapterGroup("*.attn2.to_k", rank=3, alpha=5)]
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=ALL, text_targets=TEXT, groups=GROUPS),
    "rslora": AdapterConfig(rank=4, alpha=3, rslora=True),
    "dora, input axis": AdapterConfig("dora", 4, 3, ALL, axis="input", text_targets=TEXT),
}
Make = Callable[[str, AdapterConfig], Any]


def loaded(base: Path, config: AdapterConfig, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """W' of each layer of a base into which an adapter was loaded."""
    opened, found = open_base(str(base)), {}
    parts = adapters.by_part(state)
    networks: dict[Any, Any] = {
        part: opened.unet(torch.float32)
        if part == "unet"
        else opened.text_encoder(part, torch.float32)
        for part in parts
    }
    adapters.inject_all(networks, config)
    for part, network in networks.items():
        adapters.load_adapter_state(network, parts[part])
        own = set(map(id, adapters.layers(network)))
        for name, module in network.named_modules():
            if id(module) in own:
                weight = adapters.base_weight(module) + adapters.delta_weight(module)
                found[f"{part}.{adapters.file_key(name)}"] = weight
    return found


def kohya(made: Any, folder: Path) -> Path:
    file = export_kohya(read_trained(made.folder), str(made.base), folder, "float32")
    assert file is not None
    return file


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_what_was_written_is_read_back(family: str, name: str, run: Make, tmp_path: Path) -> None:
    made = run(family, CONFIGS[name])
    file = kohya(made, tmp_path / "out")
    config, state = read_adapter(file, str(made.base))
    assert (config.kind, config.axis) == (CONFIGS[name].kind, CONFIGS[name].axis)
    after = loaded(made.base, config, state)
    assert after.keys() == made.after.keys()
    for label, expected in made.after.items():
        torch.testing.assert_close(after[label], expected, rtol=1e-4, atol=1e-5)


def test_dora_on_the_output_axis_is_read_as_one(run: Make, tmp_path: Path) -> None:
    """As LyCORIS writes it: (out, 1)."""
    made = run("sd15", AdapterConfig("dora", 4, 3, ALL))
    trained = read_trained(made.folder)
    lora = run_as_lora(trained)
    tensors = {}
    for layer, name in lora:
        ones = [1] * (layer.a.dim() - 2)
        tensors[f"{name}.lora_down.weight"] = layer.a.clone()
        tensors[f"{name}.lora_up.weight"] = layer.b.reshape(*layer.b.shape, *ones).clone()
        tensors[f"{name}.alpha"] = torch.tensor(layer.scale * layer.rank)
        tensors[f"{name}.dora_scale"] = layer.magnitude.view(-1, 1, *ones).clone()
    save_file(tensors, tmp_path / "lycoris.safetensors")
    config, state = read_adapter(tmp_path / "lycoris.safetensors", str(made.base))
    assert (config.kind, config.axis) == ("dora", "output")
    after = loaded(made.base, config, state)
    for label, expected in made.after.items():
        torch.testing.assert_close(after[label], expected, rtol=1e-4, atol=1e-5)


def run_as_lora(trained: Any) -> list[tuple[Any, str]]:
    prefix = "lora_unet_"
    return [(layer, prefix + layer.name.replace(".", "_")) for layer in trained.layers]


def test_kohyas_form_becomes_diffusers(run: Make, tmp_path: Path) -> None:
    made = run("sdxl", CONFIGS["lora"])
    file = kohya(made, tmp_path / "out")
    given = ["export", "--input", str(file), "--output", str(tmp_path / "d")]
    with pytest.raises(SystemExit):
        cli.main(given)
    cli.main([*given, "--base", str(made.base), "--dtype", "float32"])
    config, state = read_adapter(tmp_path / "d")
    after = loaded(made.base, config, state)
    for label, expected in made.after.items():
        torch.testing.assert_close(after[label], expected, rtol=1e-4, atol=1e-5)


def test_names_of_diffusers_are_read_in_sdxls_unet(run: Make, tmp_path: Path) -> None:
    made = run("sdxl", AdapterConfig(rank=4, alpha=3))
    tensors = {}
    for layer, name in run_as_lora(read_trained(made.folder)):
        tensors[f"{name}.lora_down.weight"] = layer.a.clone()
        tensors[f"{name}.lora_up.weight"] = layer.b.clone()
        tensors[f"{name}.alpha"] = torch.tensor(3.0)
    save_file(tensors, tmp_path / "x.safetensors")
    config, state = read_adapter(tmp_path / "x.safetensors", str(made.base))
    assert loaded(made.base, config, state).keys() == made.after.keys()


def test_without_an_alpha_it_is_the_rank(run: Make, tmp_path: Path) -> None:
    made = run("sd15", AdapterConfig(rank=4, alpha=3))
    tensors = {k: t for k, t in load_file(kohya(made, tmp_path)).items() if "alpha" not in k}
    save_file(tensors, tmp_path / "x.safetensors")
    config, _ = read_adapter(tmp_path / "x.safetensors", str(made.base))
    assert (config.rank, config.alpha) == (4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"{0}.hada_w1_a": torch.ones(1)}, r"holds \S+\.hada_w1_a, which is no LoRA's or DoRA's"),
        (
            {"lora_unet_x.alpha": torch.ones(())},
            r"has lora_unet_x \(1 such of \d+\), which is no",
        ),
        ({"{0}.lora_up.weight": None}, r"has no \S+\.lora_up\.weight; it is not whole"),
        ({"{0}.lora_down.weight": torch.ones(4, 3)}, r"which do not fit the base's \["),
        ({"{0}.lora_down.weight": torch.ones(())}, r"which do not fit the base's \["),
        (
            {"{0}.lora_down.weight": torch.ones(0, 32), "{0}.lora_up.weight": torch.ones(32, 0)},
            r"which do not fit the base's \[",
        ),
        ({"{0}.alpha": torch.ones(2)}, r"\.alpha of .* is no single number; it is damaged"),
        ({"{0}.alpha": torch.tensor(float("nan"))}, r"alpha of \S+ is not finite; it is damaged"),
        (
            {"{0}.dora_scale": torch.ones(7)},
            r"is \[7\], which has no axis; Elf reads \[",
        ),
        ({"{0}.dora_scale": "output"}, r"is a DoRA in some layers alone, or of two axes"),
    ],
)
def test_what_is_not_understood_is_refused(
    change: dict[str, Any], message: str, run: Make, tmp_path: Path
) -> None:
    made = run("sd15", AdapterConfig(rank=4, alpha=3))
    tensors = load_file(kohya(made, tmp_path))
    name = next(iter(tensors)).partition(".")[0]
    up = tensors[f"{name}.lora_up.weight"]
    for key, value in change.items():
        tensor = torch.ones(len(up), 1) if isinstance(value, str) else value
        if tensor is None:
            del tensors[key.format(name)]
        else:
            tensors[key.format(name)] = tensor
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ElfError, match=message):
        read_adapter(tmp_path / "x.safetensors", str(made.base))


def test_a_file_of_another_base_is_refused(run: Make, tiny_sdxl: Path, tmp_path: Path) -> None:
    made = run("sd15", AdapterConfig(rank=4, alpha=3))
    file = kohya(made, tmp_path)
    with pytest.raises(ElfError, match=r"which (is no layer of|do not fit the base's)"):
        read_adapter(file, str(tiny_sdxl))
    with pytest.raises(ElfError, match=r"is in kohya's form; name the base that it is of"):
        read_adapter(file)


def hostile(file: Path, kind: str) -> bytes:
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    if kind == "pickle":
        return b"\x80\x02}q\x00(X\x05\x00\x00\x00helloq\x01."
    if kind == "cut":
        return whole[: len(whole) // 2]
    if kind == "long header":
        return struct.pack("<Q", 1 << 60) + whole[8:]
    name = next(key for key in header if key != "__metadata__")
    if kind == "lying shape":
        header[name]["shape"] = [1 << 20, 1 << 20]
    if kind == "lying offsets":
        header[name]["data_offsets"] = [0, 1 << 40]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


@pytest.mark.fault(15)
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("kind", ["pickle", "cut", "long header", "lying shape", "lying offsets"])
def test_hostile_files_are_refused_in_a_line(
    form: str, kind: str, run: Make, tmp_path: Path
) -> None:
    made = run("sd15", AdapterConfig(rank=4, alpha=3))
    file = kohya(made, tmp_path) if form == "kohya" else export_diffusers(made.folder, tmp_path)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(hostile(file, kind))
    with pytest.raises(ElfError, match=r"adapter: .*bad\.safetensors is no safetensors file \("):
        read_adapter(bad, str(made.base))


def test_elf_test_reads_it(
    run: Make, tiny_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run("sd15", AdapterConfig(rank=4, alpha=3))
    file = kohya(made, tmp_path / "out")
    cli.main(
        [
            "test",
            "--config=configs/eval/quickstart.yaml",
            f"--model.base={made.base}",
            f"--model.adapter={file}",
            "--model.models={clip: null, tagger: null}",
            "--model.concept=null",
            "--model.generation.steps=2",
            f"--model.base_pictures={tmp_path / 'base'}",
            f"--model.embeddings={tmp_path / 'embeddings'}",
            f"--trainer.default_root_dir={tmp_path / 'evaluation'}",
            "--data.shards=null",
            '--data.prompts=["wood_elf, forest"]',
            "--data.seeds=[0]",
        ]
    )
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    rows = {row["name"]: row for row in metrics["rows"]}
    assert rows["picture_change"]["adapter"] > 1e-3
    assert re.search(r"^wood_elf: unclear", capsys.readouterr().out, re.M)
