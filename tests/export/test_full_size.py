"""Every layer of the full-size networks has its keys and shapes in each form; no weights needed.

The networks are on torch's meta device. An adapter of rank 1 is small even there, and is real.
"""

import functools
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from elf import adapters
from elf.adapters import AdapterConfig, Part
from elf.adapters.presets import canonical
from elf.adapters.targets import target_names
from elf.bases.checkpoint import empty, without_ones
from elf.bases.configs import CONFIGS
from elf.bases.families import FAMILIES, FamilyName
from elf.bases.ldm import CLIP, OPEN_CLIP, UNET, VAE, Place, places
from elf.export import export_diffusers
from elf.export.basis import Basis
from elf.export.importing import read_kohya
from elf.export.kohya_form import kohya_file
from elf.export.names import kohya_name
from elf.export.peft_form import export_peft
from elf.export.trained import Layer, Trained, read_trained
from elf.tiny.singlefile import original

pytestmark = pytest.mark.slow

ALL, TEXT = "attention+feedforward+convolutions", "attention+feedforward"
CONFIGS_OF: dict[str, AdapterConfig] = {
    "lora": AdapterConfig(rank=1, alpha=2, targets=ALL, text_targets=TEXT),
    "rslora": AdapterConfig(rank=1, alpha=2, targets=ALL, text_targets=TEXT, rslora=True),
    "dora, output axis": AdapterConfig("dora", 1, 2, ALL, text_targets=TEXT),
    "dora, input axis": AdapterConfig("dora", 1, 2, ALL, axis="input", text_targets=TEXT),
}
LOADED: list[tuple[FamilyName, str]] = [
    ("sd15", "lora"),
    ("sd15", "rslora"),  # whose names and shapes are LoRA's
    ("sd15", "dora, output axis"),
    ("sdxl", "lora"),
    ("sdxl", "dora, output axis"),
]
LARGEST = 2_000_000
"""Weights of a layer that is converted here: those of larger ones are in no other order."""
COUNTS: dict[FamilyName, dict[Part, int]] = {
    "sd15": {"unet": 278, "text_encoder": 72},
    "sdxl": {"unet": 788, "text_encoder": 72, "text_encoder_2": 192},
}


def parts_of(family: FamilyName) -> list[Part]:
    return list(COUNTS[family])


def network(family: FamilyName, part: Part) -> Any:
    import diffusers
    import transformers

    kind = FAMILIES[family]
    cls = (
        getattr(diffusers, kind.denoiser)
        if part == "unet"
        else getattr(transformers, kind.text_encoders[part])
    )
    return empty(cls, CONFIGS[family][part])


@functools.cache
def shapes(family: FamilyName) -> dict[tuple[Part, str], torch.Size]:
    """Weights of the layers that the largest presets take, by network and name."""
    found: dict[tuple[Part, str], torch.Size] = {}
    for part in parts_of(family):
        made = network(family, part)
        modules = {canonical(name): module for name, module in made.named_modules()}
        names = [canonical(name) for name in target_names(made, CONFIGS_OF["lora"], part)]
        assert len(names) == COUNTS[family][part]
        found |= {(part, name): modules[name].weight.shape for name in names}
    return found


def state(family: FamilyName, config: AdapterConfig) -> dict[str, Tensor]:
    """An adapter of all of them, with values."""
    draw, found = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for (part, name), shape in shapes(family).items():
        ones = [1] * (len(shape) - 2)
        tensors = {
            "lora_A.weight": torch.randn(1, *shape[1:], generator=draw),
            "lora_B.weight": torch.randn(shape[0], 1, *ones, generator=draw),
        }
        if config.kind == "dora":
            norms = torch.rand(shape[0 if config.axis == "output" else 1], generator=draw) + 0.5
            tensors["lora_magnitude_vector.weight"] = norms.view(1, -1, *ones) if ones else norms
        found |= {f"{part}.{name}.{end}": tensor for end, tensor in tensors.items()}
    return found


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Return a function that makes a checkpoint of a family's networks."""

    def trained(family: FamilyName, name: str) -> Trained:
        config = CONFIGS_OF[name]
        described = {"adapter": adapters.describe(config), "base_options": {}, "base_sha256": None}
        path = tmp_path / "checkpoints" / "last.ckpt"
        path.parent.mkdir()
        torch.save({"state_dict": state(family, config), "elf": described}, path)
        return read_trained(tmp_path)

    return trained


@pytest.fixture(autouse=True)
def _adapters_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peft would move what it has loaded to where its layer is: to no device."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    name = "_move_adapter_to_device_of_base_layer"
    monkeypatch.setattr(BaseTunerLayer, name, lambda *_, **__: None)


def loaded_adapter(made: nn.Module) -> dict[str, Tensor]:
    """The tensors that a loader put into a network; those it did not are on no device."""
    found = {}
    for name, tensor in made.named_parameters():
        if ".lora_" in name:
            start, _, end = name.rpartition(".lora_")
            kind = end.partition(".")[0]  # what follows is the adapter's name there
            found[f"{canonical(start.removeprefix('base_model.model.'))}.lora_{kind}"] = tensor
    return found


def assert_loaded(made: nn.Module, part: Part, trained: Trained) -> None:
    wanted = {
        key.removesuffix(".weight"): t for key, t in adapters.by_part(trained.state)[part].items()
    }
    found = loaded_adapter(made)
    assert found.keys() == wanted.keys()
    for key, tensor in found.items():
        assert tensor.device.type == "cpu", f"{key} was not loaded"
        assert torch.equal(tensor.detach().flatten(), wanted[key].flatten()), key


@pytest.mark.parametrize(("family", "name"), LOADED)
def test_diffusers_loads_each_layer(
    family: FamilyName, name: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    trained = make(family, name)
    file = export_diffusers(tmp_path, tmp_path / "out", "float32")
    loader: Any = getattr(diffusers, FAMILIES[family].pipeline)
    tensors, alphas, metadata = loader.lora_state_dict(
        str(file.parent), weight_name=file.name, return_lora_metadata=True
    )
    assert len(tensors) == len(trained.state) and alphas is None
    given = {"network_alphas": None, "metadata": metadata, "low_cpu_mem_usage": True}
    for part in parts_of(family):
        made = network(family, part)
        if part == "unet":
            loader.load_lora_into_unet(dict(tensors), unet=made, **given)
        else:
            made.to = lambda *_, **__: None  # weights on no device cannot be moved
            made.hf_device_map = {"": torch.device("cpu")}
            with torch.device("meta"):
                loader.load_lora_into_text_encoder(
                    dict(tensors), text_encoder=made, prefix=part, **given
                )
        assert_loaded(made, part, trained)
        scales = {
            module.scaling[module.active_adapters[0]]
            for module in made.modules()
            if hasattr(module, "lora_A")
        }
        assert scales == {2.0}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft 0.21 asks transformers
@pytest.mark.parametrize(("family", "name"), LOADED)
def test_peft_loads_each_layer(family: FamilyName, name: str, make: Any, tmp_path: Path) -> None:
    """A warning of keys that are missing or are of no layer would be an error here."""
    from peft import PeftModel

    trained = make(family, name)
    folders = export_peft(trained, tmp_path / "peft", "float32")
    assert [folder.name for folder in folders] == parts_of(family)
    for folder, part in zip(folders, parts_of(family), strict=True):
        made = PeftModel.from_pretrained(network(family, part), folder, low_cpu_mem_usage=True)
        assert_loaded(made, part, trained)


def named(family: FamilyName, layer: Layer) -> str:
    return kohya_name(layer.part, layer.name, family, CONFIGS[family]["unet"])


def kohya_shapes(name: str, weight: torch.Size, dora: bool) -> dict[str, list[int]]:
    """What ComfyUI, A1111 and kohya's scripts take of a layer at rank 1."""
    out, inside, kernel = weight[0], weight[1], list(weight[2:])
    ones = [1] * len(kernel)
    found = {
        f"{name}.lora_down.weight": [1, inside, *kernel],
        f"{name}.lora_up.weight": [out, 1, *ones],
        f"{name}.alpha": [],
    }
    return found | ({f"{name}.dora_scale": [1, inside, *ones]} if dora else {})


@pytest.mark.parametrize("name", ["lora", "dora, input axis"])
@pytest.mark.parametrize("family", COUNTS)
def test_kohyas_form_has_each_layer(family: FamilyName, name: str, make: Any) -> None:
    """And Elf reads each of them back as what it was."""
    trained = make(family, name)
    sizes = shapes(family)
    tensors = kohya_file(trained.layers, functools.partial(named, family), "float32").tensors
    wanted: dict[str, list[int]] = {}
    for layer in trained.layers:
        size = sizes[layer.part, layer.name]
        wanted |= kohya_shapes(named(family, layer), size, "dora" in name)
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == wanted
    base: Any = SimpleNamespace(
        config=CONFIGS[family].__getitem__,
        empty=functools.partial(network, family),
        family=family,
        name=family,
        text_encoder_names=tuple(FAMILIES[family].text_encoders),
    )
    config, read = read_kohya(tensors, base, Path("x"))
    assert (config.kind, config.axis) == (trained.config.kind, trained.config.axis)
    assert read.keys() == trained.state.keys()
    for key, tensor in read.items():
        assert torch.equal(tensor, trained.state[key]), key


@pytest.mark.parametrize("family", COUNTS)
def test_a_layer_of_each_shape_is_converted(family: FamilyName) -> None:
    """DoRA on the output axis becomes a LoRA; names do not depend on what a layer holds."""
    tensors = state(family, CONFIGS_OF["dora, output axis"])
    trained = Trained(Path("x"), CONFIGS_OF["dora, output axis"], tensors, {}, None)
    sizes = shapes(family)
    one_each = {sizes[each.part, each.name]: each for each in trained.layers}
    assert len(one_each) > 20
    draw = torch.Generator().manual_seed(1)
    for size, layer in one_each.items():
        if size.numel() > LARGEST:
            continue
        weight = torch.randn(size, generator=draw)
        file = kohya_file([layer], lambda _: "x", "float32", lambda _, weight=weight: weight)  # type: ignore[misc]
        found = {key: list(tensor.shape) for key, tensor in file.tensors.items()}
        assert found == kohya_shapes("x", size, dora=False)
        assert 0 < file.errors[layer.label] < 1


def rows_of(size: tuple[int, ...]) -> Tensor:
    """A tensor whose rows hold their numbers, in next to no memory."""
    numbers = torch.arange(size[0], dtype=torch.int16)
    return numbers.view(-1, *[1] * (len(size) - 1)).expand(size)


def as_diffusers_reads(family: FamilyName, part: Part, file: Mapping[str, Tensor]) -> Any:
    """A part's tensors, by the names that diffusers gives to those of a single file."""
    from diffusers.loaders import single_file_utils as theirs

    if part == "unet":
        return theirs.convert_ldm_unet_checkpoint(dict(file), CONFIGS[family]["unet"])
    if part == "text_encoder":
        return theirs.convert_ldm_clip_checkpoint(dict(file))
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=1280))
    return theirs.convert_open_clip_checkpoint(model, dict(file), prefix=OPEN_CLIP)


@pytest.mark.parametrize(
    ("family", "part"), [(family, part) for family, counts in COUNTS.items() for part in counts]
)
def test_each_layer_has_its_place_in_a_single_file(family: FamilyName, part: Part) -> None:
    """As diffusers finds it there; q, k and v of SDXL's second text encoder are thirds of one."""
    file = {
        key: rows_of(tuple(t.shape))
        for key, t in original(network(family, part), family, part).items()
    }
    start = {"unet": UNET, "text_encoder": CLIP[family], "text_encoder_2": OPEN_CLIP}[part]
    assert all(key.startswith(start) for key in file)
    read = {canonical(key): t for key, t in as_diffusers_reads(family, part, file).items()}
    names = {name: size for (whose, name), size in shapes(family).items() if whose == part}
    found = places(family, part, [f"{name}.weight" for name in names], CONFIGS[family][part])
    keys: dict[tuple[str, int | None], str] = {}
    for name, size in names.items():
        place = found[f"{name}.weight"]
        assert keys.setdefault((place.key, place.third), name) == name, "two layers in one place"
        held, taken = file[place.key], read[f"{name}.weight"]
        assert taken.numel() == size.numel()
        if place.third is None:
            assert torch.equal(held, taken) and not place.transposed
        else:
            third = size[0] * place.third
            assert held.shape == (3 * size[0], size[1])
            assert torch.equal(held[third : third + size[0]], taken)


def test_the_projection_of_the_second_text_encoder_lies_on_its_side() -> None:
    """It is trained by no preset, but a list can name it."""
    place = places("sdxl", "text_encoder_2", ["text_projection.weight"], {})
    assert place == {
        "text_projection.weight": Place(f"{OPEN_CLIP}text_projection", transposed=True)
    }


def write_sparse(path: Path, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a file of zeros in float16, of which the disk holds the header alone."""
    header: dict[str, Any] = {}
    end = 0
    for name, size in sizes.items():
        start, end = end, end + 2 * math.prod(size)
        header[name] = {"dtype": "F16", "shape": list(size), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_folder(family: FamilyName, folder: Path, tiny: Path) -> None:
    """Write a base as the hub has it, with names from before transformers 5."""
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for part in FAMILIES[family].parts:
        (folder / part / "config.json").write_text(json.dumps(CONFIGS[family][part]))
        if part == "vae":
            write_sparse(folder / part / "diffusion_pytorch_model.safetensors", {"a": (1,)})
            continue
        start, stem = "", "diffusion_pytorch_model"
        if part != "unet":
            start, stem = "text_model.", "model"
        sizes = {
            name if name.startswith(("text_model.", "text_projection")) else start + name: t.shape
            for name, t in network(family, cast(Part, part)).state_dict().items()
        }
        write_sparse(folder / part / f"{stem}.safetensors", sizes)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("family", COUNTS)
def test_a_base_that_is_merged_into_has_each_layer(
    family: FamilyName, kind: str, tiny_models: dict[str, Path], tiny_sdxl: Path, tmp_path: Path
) -> None:
    base = tmp_path / ("base.safetensors" if kind == "file" else "base")
    if kind == "folder":
        write_folder(family, base, tiny_models["base"] if family == "sd15" else tiny_sdxl)
    else:
        sizes: dict[str, tuple[int, ...]] = {f"{VAE}a": (1,)}
        for part in parts_of(family):
            made = original(network(family, part), family, part)
            sizes |= {key: tuple(tensor.shape) for key, tensor in made.items()}
        write_sparse(base, sizes)
    config = CONFIGS_OF["lora"]
    trained = Trained(Path("x"), config, state(family, config), {}, None)
    basis = Basis(str(base), trained)
    assert len(trained.layers) == sum(COUNTS[family].values())
    for layer in trained.layers:
        path, place = basis.place(layer)
        size = basis.stored.header(path).shapes[place.key]
        rows = 3 if place.third is not None else 1
        assert without_ones(size) == without_ones((rows * layer.shape[0], *layer.shape[1:]))
    for layer in trained.layers[::100]:
        assert basis.weight(layer).shape == layer.shape
