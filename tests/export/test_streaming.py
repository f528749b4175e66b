"""A base is merged tensor by tensor: what was not trained stays, and loaders find every network."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from elf.adapters import AdapterConfig
from elf.bases import Base, open_base
from elf.bases.header import Header
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.command import write_merged
from elf.export.tensors import DTYPES
from elf.export.trained import Trained, read_trained
from elf.export.writing import Entry, file_bytes, tensor_bytes, write_entries
from elf.tiny.singlefile import single_file

CONFIG = AdapterConfig(rank=4, alpha=3, text_targets="attention")
FAMILIES = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
Make = Callable[[str, AdapterConfig], Any]


def on_another_base(made: Any, **options: Any) -> Trained:
    """The adapter, which does not say any more which file it was trained on."""
    trained = read_trained(made.folder)
    return replace(trained, base_sha256=None, base_options={**trained.base_options, **options})


def pipeline(family: str, folder: Path, **options: Any) -> Any:
    import diffusers

    given = {"safety_checker": None} if family == "sd15" else {}
    cls = getattr(diffusers, FAMILIES[family])
    return cls.from_pretrained(folder, dtype=torch.float32, **given, **options)


def raw(path: Path) -> dict[str, bytes]:
    header = Header.read(path)
    return {name: b"".join(header.pieces(name)) for name in header.shapes}


def test_a_file_is_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(3.0),
        "b": torch.tensor(2.5, dtype=torch.bfloat16),
        "c": torch.arange(4).half().view(2, 2),
        "d": torch.arange(5),
        "e": torch.zeros(0),
    }
    names = {"a": "F32", "b": "BF16", "c": "F16", "d": "I64", "e": "F32"}
    entries = {
        key: Entry(
            names[key],
            tuple(t.shape),
            t.nbytes,
            lambda t=t: [tensor_bytes(t)],  # type: ignore[misc]
        )
        for key, t in tensors.items()
    }
    write_entries(tmp_path / "x.safetensors", entries, {"format": "pt", "about": "ü"})
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    del tensors["e"], entries["e"]  # the library puts what is empty elsewhere
    write_entries(tmp_path / "y.safetensors", entries, {"b": "2", "a": "1"})
    assert (tmp_path / "y.safetensors").read_bytes() == file_bytes(tensors, {"b": "2", "a": "1"})


@pytest.mark.parametrize("family", FAMILIES)
def test_no_network_is_loaded(
    family: str, run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(family, CONFIG)

    def none(*_: Any) -> None:
        raise AssertionError("a whole network was loaded")

    monkeypatch.setattr(Base, "_load", none)
    write_merged(read_trained(made.folder), str(made.base), tmp_path / "m", "float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_not_trained_stays_byte_for_byte(family: str, run: Make, tmp_path: Path) -> None:
    made = run(family, CONFIG)
    base = sharded(made.base, tmp_path / "base")
    output = write_merged(on_another_base(made), str(base), tmp_path / "m", "float32")
    changed = {f"{name}.weight" for name in made.after}
    parts = set()
    for file in base.rglob("*.safetensors"):
        before, after = raw(file), raw(output / file.relative_to(base))
        assert before.keys() == after.keys()
        for name, data in before.items():
            label = f"{file.parent.name}.{name.replace('text_model.', '')}"
            assert (after[name] == data) == (label not in changed), label
        parts.add(file.parent.name)
    assert len(parts) == len(open_base(str(made.base)).text_encoder_names) + 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_keeps_what_it_says_but_hashes(family: str, run: Make, tmp_path: Path) -> None:
    made = run(family, CONFIG)
    opened = open_base(str(made.base))
    marks = ("v_pred",) if family == "sdxl" else ()
    drawn = opened.pipeline(opened.unet(torch.float32))
    base = single_file(drawn, family, tmp_path / "base.safetensors", marks)
    said = {"modelspec.title": "Base", "modelspec.hash_sha256": "0x1", "sshs_model_hash": "1"}
    save_file(load_file(base), base, said)
    trained = on_another_base(made, base_configs=str(made.base))
    output = write_merged(trained, str(base), tmp_path / "merged.safetensors")
    assert Header.read(output).metadata == {"modelspec.title": "Base"}
    before, after = raw(base), raw(output)
    assert before.keys() == after.keys()
    changed = {Basis(str(base), trained).place(layer)[1].key for layer in trained.layers}
    assert {name for name in before if before[name] != after[name]} == changed
    if family == "sdxl":  # of the second text encoder q, k, v lie in one tensor
        assert len(changed) < len(trained.layers)


def sharded(base: Path, folder: Path, variant: str | None = None) -> Path:
    """A copy of a base, its networks in several files each."""
    import shutil

    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    opened = open_base(str(base))
    networks: dict[str, Any] = {"unet": opened.unet(torch.float32), "vae": opened.vae()}
    networks |= {n: opened.text_encoder(n, torch.float32) for n in opened.text_encoder_names}
    for part, network in networks.items():
        network.save_pretrained(folder / part, max_shard_size="200KB", variant=variant)
    return folder


@pytest.mark.parametrize(("family", "variant"), [("sd15", "fp16"), ("sdxl", None)])
def test_shards_stay_shards(family: str, variant: str | None, run: Make, tmp_path: Path) -> None:
    """Of a variant, too, which then goes by the plain name."""
    made = run(family, CONFIG)
    base = sharded(made.base, tmp_path / "base", variant)
    output = write_merged(on_another_base(made), str(base), tmp_path / "m", "float16")
    files = sorted(path.name for path in (output / "unet").glob("*.safetensors"))
    assert len(files) > 2 and not any("fp16" in name for name in files)
    index = json.loads(next((output / "unet").glob("*.index.json")).read_text())
    headers = [Header.read(output / "unet" / name) for name in files]
    size = sum(header.length(name) for header in headers for name in header.shapes)
    assert index["metadata"]["total_size"] == size
    assert set(index["weight_map"].values()) == set(files)
    assert_loaded(made, pipeline(family, output))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_of_half_precision_files_alone_is_loaded_by_diffusers(
    family: str, run: Make, tmp_path: Path
) -> None:
    made = run(family, CONFIG)
    base, drawn = tmp_path / "base", pipeline(family, made.base)
    drawn.to(torch.float16).save_pretrained(base, variant="fp16")
    assert not list(base.rglob("*model.safetensors"))
    output = write_merged(on_another_base(made), str(base), tmp_path / "m", "float16")
    assert not list(output.rglob("*fp16*"))
    vae = next((base / "vae").glob("*.fp16.safetensors"))
    assert (output / "vae" / vae.name.replace(".fp16", "")).read_bytes() == vae.read_bytes()
    assert_loaded(made, pipeline(family, output))
    assert open_base(str(output)).family == family
    both = tmp_path / "both"  # where there are both, the full ones are merged, and stay beside it
    drawn.to(torch.float32).save_pretrained(both)
    drawn.to(torch.float16).save_pretrained(both, variant="fp16")
    output = write_merged(on_another_base(made), str(both), tmp_path / "n", "float32")
    assert {path.parent.name for path in output.rglob("*fp16*")} == {"vae"}
    assert_loaded(made, pipeline(family, output))


def assert_loaded(made: Any, found: Any) -> None:
    """The pipeline has the trained weights."""
    for label, expected in made.after.items():
        part, _, name = label.partition(".")
        layers = dict(getattr(found, part).named_modules())
        layer = layers.get(name) or layers[f"text_model.{name}"]
        assert (layer.weight - expected).norm() <= 2e-3 * expected.norm()


def test_a_configuration_says_the_type_that_is_written(run: Make, tmp_path: Path) -> None:
    made = run("sd15", CONFIG)
    base = sharded(made.base, tmp_path / "base")
    for dtype in ("bfloat16", "float32"):
        output = write_merged(on_another_base(made), str(base), tmp_path / dtype, dtype)  # type: ignore[arg-type]
        assert json.loads((output / "text_encoder" / "config.json").read_text())["dtype"] == dtype
        with safe_open(next((output / "text_encoder").glob("*-00001-*")), "pt") as file:
            found = {file.get_tensor(key).dtype for key in file.keys()}
        assert found == {getattr(torch, dtype)}


def test_whole_bases_beside_the_folders_are_left_out(run: Make, tmp_path: Path) -> None:
    """They hold weights without the adapter."""
    made = run("sd15", CONFIG)
    base = sharded(made.base, tmp_path / "base")
    for name in ("v1-5.safetensors", "v1-5.ckpt", "LICENSE"):
        (base / name).touch()
    output = write_merged(on_another_base(made), str(base), tmp_path / "m", "float16")
    assert (output / "LICENSE").exists() and not list(output.glob("v1-5*"))


def test_what_overflows_is_refused(run: Make, tmp_path: Path) -> None:
    made = run("sd15", CONFIG)
    trained = on_another_base(made, base_configs=str(made.base))
    large = replace(
        trained, state={key: t * 1e8 if "lora_B" in key else t for key, t in trained.state.items()}
    )
    plain = {**trained.base_options, "base_configs": None}
    with pytest.raises(ElfError, match=r"weight overflows in torch\.float16; export with --dtype"):
        write_merged(replace(large, base_options=plain), str(made.base), tmp_path / "m")
    opened = open_base(str(made.base))
    drawn = opened.pipeline(opened.unet(torch.float32))
    base = single_file(drawn, "sd15", tmp_path / "base.safetensors")
    with pytest.raises(ElfError, match=r"overflows in torch\.float16; merge into a base of a wid"):
        write_merged(large, str(base), tmp_path / "m.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"base.safetensors", "wood_elf"}


def test_layers_of_another_shape_are_refused(run: Make, tmp_path: Path) -> None:
    made = run("sd15", CONFIG)
    trained = on_another_base(made)
    key = next(key for key in trained.state if "lora_B" in key)
    other = {**trained.state, key: torch.ones(7, 4)}
    with pytest.raises(ElfError, match=r"base: \S+ of .* is \[\d+, \d+\], and the adapter's \[7, "):
        write_merged(replace(trained, state=other), str(made.base), tmp_path / "m")
    assert not list(tmp_path.glob("*m*partial")) and not (tmp_path / "m").exists()


def test_a_base_that_becomes_shorter_meanwhile_is_told(tmp_path: Path) -> None:
    save_file({"a": torch.arange(9.0)}, tmp_path / "x.safetensors")
    header = Header.read(tmp_path / "x.safetensors")
    with (tmp_path / "x.safetensors").open("rb+") as file:
        file.truncate(header.path.stat().st_size - 8)
    with pytest.raises(ElfError, match=r"base model: .*x\.safetensors has become shorter"):
        list(header.pieces("a"))


def test_weights_that_are_no_numbers_are_not_verified(run: Make, tmp_path: Path) -> None:
    """A comparison with NaN is never true."""
    made = run("sd15", CONFIG)
    base = sharded(made.base, tmp_path / "base")
    for file in (base / "unet").glob("*.safetensors"):
        tensors = load_file(file)
        for key, tensor in tensors.items():
            if key.endswith("to_q.weight"):
                tensor.fill_(float("nan"))
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ElfError, match=r"overflows in|off by nan"):
        write_merged(on_another_base(made), str(base), tmp_path / "m", "float32")


def test_what_is_not_what_was_trained_is_not_kept(
    run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run("sd15", CONFIG)
    opened = open_base(str(made.base))
    drawn = opened.pipeline(opened.unet(torch.float32))
    file = single_file(drawn, "sd15", tmp_path / "base.safetensors")
    trained = on_another_base(made, base_configs=str(made.base))
    plain = replace(trained, base_options={**trained.base_options, "base_configs": None})
    monkeypatch.setattr("elf.export.verifying.ALLOWED_MERGED", dict.fromkeys(DTYPES, -1.0))
    for base, adapter, name in ((file, trained, "m.safetensors"), (made.base, plain, "m")):
        with pytest.raises(ElfError, match=r"not what was trained, and is not kept"):
            write_merged(adapter, str(base), tmp_path / name)
        assert not (tmp_path / name).exists()
