"""Files in kohya's form, read by rules of ComfyUI's that stand here by themselves."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from elf import cli
from elf.adapters import AdapterConfig, AdapterGroup
from elf.bases import open_base
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.command import export_kohya
from elf.export.kohya_form import kohya_file
from elf.export.trained import read_trained
from elf.export.verifying import kohya_change, verify_kohya
from elf.tiny.singlefile import original

LINEAR, ALL = "attention+feedforward+projections", "attention+feedforward+convolutions"
GROUPS = [AdapterGroup("to_q", rank=2), AdapterGroup("*.attn2.to_k", rank=3, alpha=5)]
TEXT = "attention+feedforward"
EXACT = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=LINEAR),
    "convolutions": AdapterConfig(rank=4, alpha=3, targets=ALL),
    "groups": AdapterConfig(rank=4, alpha=3, targets=LINEAR, groups=GROUPS),
    "rslora": AdapterConfig(rank=4, alpha=3, targets=ALL, rslora=True),
    "pissa": AdapterConfig(rank=4, alpha=3, targets=TEXT, init="pissa"),
    "text encoders": AdapterConfig(rank=4, alpha=3, targets=LINEAR, text_targets=TEXT),
    "dora, input axis": AdapterConfig("dora", 4, 3, ALL, axis="input", text_targets=TEXT),
}
Run, Make = Any, Callable[[str, AdapterConfig], Any]


def keys_as_web_uis_have_them(run: Run, family: str) -> dict[str, str]:
    """Names of layers by what web UIs look for, made from the checkpoint that they load.

    That of SDXL is in the original layout (tests of single files hold it to diffusers' own
    conversion); of SD1.5 they know diffusers' names, and of text encoders transformers'.
    """
    found = {}
    base = open_base(str(run.base))
    unet = base.unet(torch.float32)
    if family == "sdxl":
        unique = {
            name: torch.full_like(t, n) for n, (name, t) in enumerate(unet.state_dict().items())
        }
        numbers = {n: name for n, name in enumerate(unique)}
        unet.load_state_dict(unique)
        for key, tensor in original(unet, family, "unet").items():
            name = numbers[int(tensor.flatten()[0])].removesuffix(".weight")
            short = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
            found["lora_unet_" + short.replace(".", "_")] = f"unet.{name}"
    else:
        for name, _ in unet.named_modules():
            found["lora_unet_" + name.replace(".", "_")] = f"unet.{name}"
    parts = {
        "sd15": {"text_encoder": "te"},
        "sdxl": {"text_encoder": "te1", "text_encoder_2": "te2"},
    }
    for part, prefix in parts[family].items():
        for name, _ in base.text_encoder(part, torch.float32).named_modules():
            short = name.removeprefix("text_model.")
            found[f"lora_{prefix}_text_model_{short}".replace(".", "_")] = f"{part}.{short}"
    return found


def as_comfyui_applies(
    file: Path, keys: dict[str, str], before: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """W' of each layer; a key that is of none fails."""
    tensors = {key: tensor.float() for key, tensor in load_file(file).items()}
    after = {}
    for down_key in [key for key in tensors if key.endswith(".lora_down.weight")]:
        name = down_key.removesuffix(".lora_down.weight")
        down, up = tensors.pop(down_key), tensors.pop(f"{name}.lora_up.weight")
        alpha = tensors.pop(f"{name}.alpha").item() / down.shape[0]
        weight = before[keys[name]]
        difference = torch.mm(up.flatten(start_dim=1), down.flatten(start_dim=1))
        calculated = weight + alpha * difference.reshape(weight.shape)
        scale = tensors.pop(f"{name}.dora_scale", None)
        if scale is not None:
            norm = calculated.transpose(0, 1).reshape(calculated.shape[1], -1)
            norm = norm.norm(dim=1, keepdim=True)
            shape = [calculated.shape[1], *[1] * (calculated.dim() - 1)]
            calculated = calculated * (scale / norm.reshape(shape).transpose(0, 1))
        after[keys[name]] = calculated
    assert not tensors, f"not read: {sorted(tensors)[:3]}"
    return after


def assert_same(run: Run, after: dict[str, torch.Tensor], of_update: float) -> None:
    assert after.keys() == run.after.keys()
    for name, expected in run.after.items():
        off = (after[name] - expected).norm()
        assert off <= 1e-5 * expected.norm() or of_update > 1e-3
        assert off <= of_update * (expected - run.before[name]).norm()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_web_uis_have_the_trained_weights(
    family: str, name: str, run: Make, tmp_path: Path
) -> None:
    made = run(family, EXACT[name])
    file = export_kohya(read_trained(made.folder), str(made.base), tmp_path / "out", "float32")
    assert file == tmp_path / "out" / "wood_elf.safetensors"
    keys = keys_as_web_uis_have_them(made, family)
    assert_same(made, as_comfyui_applies(file, keys, made.before), 1e-3)
    half = export_kohya(read_trained(made.folder), str(made.base), tmp_path / "half", "float16")
    assert half is not None and half.stat().st_size < file.stat().st_size
    assert_same(made, as_comfyui_applies(half, keys, made.before), 3e-3)


def test_diffusers_makes_the_same_of_it(run: Make, tmp_path: Path) -> None:
    """Its real loader, for what it reads of this form: one rank and alpha, the attention."""
    made = run("sd15", AdapterConfig(rank=4, alpha=3, text_targets="attention"))
    file = export_kohya(
        read_trained(made.folder), str(made.base), tmp_path / "x.safetensors", "float32"
    )
    base = open_base(str(made.base))
    fresh = base.pipeline(base.unet(torch.float32))
    fresh.load_lora_weights(str(tmp_path), weight_name=file.name)
    fresh.fuse_lora()
    for part in ("unet", "text_encoder"):
        theirs = dict(getattr(fresh, part).named_modules())
        for label, expected in made.after.items():
            if label.startswith(f"{part}."):
                name = label.removeprefix(f"{part}.")
                layer: Any = theirs.get(name, theirs.get(f"text_model.{name}"))
                weight = getattr(layer, "base_layer", layer).weight
                torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)


def test_dora_on_the_output_axis_becomes_a_lora_that_comes_near(
    run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run("sd15", AdapterConfig("dora", 4, 3, LINEAR))
    trained, base = read_trained(made.folder), str(made.base)
    message = r"max_error: \d+ of \d+ layers would be off by more than 5%, unet\.\S+ by \d"
    with pytest.raises(ElfError, match=message):
        export_kohya(trained, base, tmp_path / "x.safetensors", "float32")
    assert not (tmp_path / "x.safetensors").exists()
    capsys.readouterr()
    file = export_kohya(trained, base, tmp_path / "x.safetensors", "float32", 400, 0.05)
    said = capsys.readouterr().out
    assert "layers are near what was trained, not the same; the farthest:" in said
    tensors = load_file(file)
    assert not any("dora" in key for key in tensors)
    ranks = {len(tensor) for key, tensor in tensors.items() if "lora_down" in key}
    assert ranks == {96} and header(file)["ss_network_dim"] == "96"  # of the file, not of the run
    keys = keys_as_web_uis_have_them(made, "sd15")
    assert_same(made, as_comfyui_applies(file, keys, made.before), 0.05)


def test_a_smaller_rank_is_the_best_of_that_rank(run: Make, tmp_path: Path) -> None:
    made = run("sdxl", AdapterConfig(rank=4, alpha=3, targets=ALL))
    trained, base = read_trained(made.folder), str(made.base)
    file = export_kohya(trained, base, tmp_path / "x.safetensors", "float32", 2, 1.0)
    after = as_comfyui_applies(file, keys_as_web_uis_have_them(made, "sdxl"), made.before)
    for name, weight in after.items():
        change = (made.after[name] - made.before[name]).flatten(1)
        values = torch.linalg.svdvals(change)
        left = (weight - made.after[name]).norm()
        assert left == pytest.approx(float(values[2:].norm()), rel=1e-3, abs=1e-5)
    same = export_kohya(trained, base, tmp_path / "y.safetensors", "float32", 8)
    assert max(len(t) for key, t in load_file(same).items() if "down" in key) == 4


def header(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        found: dict[str, str] = opened.metadata()
    return found


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_header_says_what_it_is(family: str, run: Make, tmp_path: Path) -> None:
    made = run(family, EXACT["lora"])
    trained = read_trained(made.folder)
    file = export_kohya(
        trained, str(made.base), tmp_path / "x.safetensors", title="Wood elf", trigger="wood_elf"
    )
    found = header(file)
    names = {"sd15": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}
    assert found["modelspec.architecture"] == names[family]
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.title"] == found["ss_output_name"] == "Wood elf"
    assert found["modelspec.trigger_phrase"] == "wood_elf"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["modelspec.date"])
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("4", "3")
    versions = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}
    assert found["ss_base_model_version"] == versions[family]
    assert found["ss_v2"] == "False" and found["ss_network_module"] == "networks.lora"
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    digest = hashlib.sha256(whole[start:]).hexdigest()
    assert found["sshs_model_hash"] == digest
    assert found["modelspec.hash_sha256"] == f"0x{digest}"
    assert re.fullmatch(r"[0-9a-f]{8}", found["sshs_legacy_hash"])
    again = export_kohya(
        trained, str(made.base), tmp_path / "y.safetensors", title="Wood elf", trigger="wood_elf"
    )
    assert again is not None and again.read_bytes() == whole


def test_ranks_of_groups_and_convolutions_are_said(run: Make, tmp_path: Path) -> None:
    made = run("sd15", EXACT["groups"])
    found = header(export_kohya(read_trained(made.folder), str(made.base), tmp_path))
    assert found["ss_network_dim"] == found["ss_network_alpha"] == "Dynamic"
    assert json.loads(found["ss_network_args"]) == {}


def test_what_is_not_what_was_trained_is_refused(run: Make, tmp_path: Path) -> None:
    made = run("sd15", EXACT["lora"])
    trained = read_trained(made.folder)
    basis = Basis(str(made.base), trained)
    file = export_kohya(trained, str(made.base), tmp_path / "x.safetensors", "float32")
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith(".alpha"))
    name = key.removesuffix(".alpha")

    def check(changes: dict[str, Any]) -> None:
        kept = {k: v for k, v in (tensors | changes).items() if v is not None}
        save_file(kept, tmp_path / "y.safetensors")
        verify_kohya(
            tmp_path / "y.safetensors", trained.layers, basis.kohya_name, "float32", basis.weight
        )

    check({})
    with pytest.raises(ElfError, match=r"verify: unet\.\S+ of .* is off by 33\.3% of its update"):
        check({key: torch.tensor(4.0)})
    gone = {f"{name}.{end}": None for end in ("alpha", "lora_up.weight", "lora_down.weight")}
    with pytest.raises(ElfError, match=f"verify: .* lacks {name}"):
        check(gone)
    with pytest.raises(ElfError, match=r"verify: .* has lora_unet_x"):
        check({"lora_unet_x.alpha": torch.tensor(1.0)})


def test_the_command(run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("sd15", EXACT["lora"])
    output = tmp_path / "elf.safetensors"
    given = ["export", "--input", str(made.folder), "--output", str(output), "--target", "kohya"]
    cli.main([*given, "--plan", "true"])
    planned = capsys.readouterr().out.splitlines()
    assert not output.exists()
    cli.main(given)
    said = capsys.readouterr().out
    assert re.search(r"verified: \d+ layers, off by \d\.\de-0\d at most \(unet\.", said)
    assert f"wrote {output}" in said
    shapes = {key: list(map(str, t.shape)) for key, t in load_file(output).items()}
    assert {line.split()[0]: line.split()[1:] for line in planned} == shapes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--target", "diffusers", "--rank", "4"], "rank: diffusers has none; add --target"),
        (["--target", "kohya", "--rank", "0"], "rank: 0 is none; take 1 or more"),
        (["--target", "kohya", "--base", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str],
    message: str,
    run: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = run("sd15", EXACT["lora"])
    given = ["export", "--input", str(made.folder), "--output", str(tmp_path / "x"), *more]
    with pytest.raises(SystemExit) as stop:
        cli.main(given)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("elf: error") and message in error


def test_another_base_is_refused(run: Make, tiny_sdxl: Path, tmp_path: Path) -> None:
    made = run("sd15", EXACT["lora"])
    with pytest.raises(ElfError, match=r"base: .* was trained on the UNet \w{12}…, and .*sdxl"):
        export_kohya(read_trained(made.folder), str(tiny_sdxl), tmp_path / "x")


def test_a_base_that_no_configuration_names_is_asked_for(run: Make, tmp_path: Path) -> None:
    made = run("sd15", EXACT["lora"])
    (made.folder / "config.yaml").unlink()
    with pytest.raises(SystemExit):
        cli.main(["export", "--input", str(made.folder), "--output", "x", "--target", "kohya"])


def test_a_dora_keeps_its_rank(run: Make, tmp_path: Path) -> None:
    made = run("sd15", EXACT["dora, input axis"])
    with pytest.raises(ElfError, match=r"rank: a DoRA's norms are of its whole update; export it"):
        export_kohya(read_trained(made.folder), str(made.base), tmp_path / "x", rank=2)


def test_without_weights_a_dora_is_neither_converted_nor_verified(
    run: Make, tmp_path: Path
) -> None:
    made = run("sd15", AdapterConfig("dora", 4))
    layers = read_trained(made.folder).layers
    with pytest.raises(ElfError, match=r"base: a DoRA on the output axis needs it; name it by --b"):
        kohya_file(layers, lambda layer: layer.name, "float32")
    other = replace(layers[0], axis="input", magnitude=torch.ones(layers[0].a.shape[1]))
    tensors = kohya_file([other], lambda _: "x", "float32").tensors
    read = {key.removeprefix("x."): tensor for key, tensor in tensors.items()}
    with pytest.raises(ElfError, match=r"base: a DoRA is verified beside its base; name it by --b"):
        kohya_change(read, other, None)


def test_a_layer_that_the_base_lacks_is_named(run: Make) -> None:
    made = run("sd15", AdapterConfig(rank=4))
    trained = read_trained(made.folder)
    lost = replace(trained.layers[0], name="nowhere.to_q")
    with pytest.raises(ElfError, match=r"base: .* has no layer unet\.nowhere\.to_q"):
        Basis(str(made.base), trained).weight(lost)


@pytest.mark.parametrize(
    ("targets", "told"), [(["q_proj", "v_proj"], True), ("attention", False), (["fc1"], False)]
)
def test_what_a1111_passes_over_is_told(
    targets: Any, told: bool, run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run("sdxl", AdapterConfig(rank=2, text_targets=targets))
    export_kohya(read_trained(made.folder), str(made.base), tmp_path)
    assert ("A1111 applies nothing of text_encoder_2 unless" in capsys.readouterr().out) == told
