"""SSCD from each kind of file that it may come in."""

import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from elf.embedders import CopyEmbedder
from elf.embedders.copies import PREPROCESSING, WAY
from elf.embedders.sscd import SSCD, Architecture, GeneralisedMean, torchvision_name
from elf.errors import ElfError

CPU = torch.device("cpu")


class Pooling(torch.nn.Module):
    """GeM pooling as TorchScript takes it: jaxtyping's annotations are no types to it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.clamp(min=1e-6) ** 3.0).mean(dim=[2, 3]) ** (1 / 3.0)


class Original(torch.nn.Module):
    """The structure of the published TorchScript: a trunk, and a norm without weights."""

    def __init__(self, network: SSCD) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.backbone.avgpool = Pooling()

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self.backbone(x))


def original(network: SSCD, tiny: Architecture) -> Original:
    copy = SSCD(tiny)
    copy.load_state_dict(network.state_dict())
    return Original(copy).eval()


def save_script(module: torch.nn.Module, path: Path, how: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        if how == "trace":
            torch.jit.trace(module, torch.zeros(1, 3, 64, 64)).save(path)
        else:
            scripted = torch.jit.script(module)
            (torch.jit.freeze(scripted) if how == "freeze" else scripted).save(path)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_gives_what_it_would_have_given(
    tmp_path: Path, sscd: SSCD, tiny: Architecture, drawings: list[Image.Image], how: str
) -> None:
    module, path = original(sscd, tiny), tmp_path / "sscd.torchscript.pt"
    save_script(module, path, how)
    rows = CopyEmbedder(str(path), CPU, architecture=tiny).pictures(drawings)
    with torch.no_grad():
        expected = [module(torch.from_numpy(PREPROCESSING(p))[None]) for p in drawings]
    np.testing.assert_allclose(rows, torch.cat(expected).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_a_state_dict_and_safetensors_give_the_same(
    tmp_path: Path, sscd: SSCD, sscd_file: Path, tiny: Architecture, drawings: list[Image.Image]
) -> None:
    torch.save(sscd.state_dict(), tmp_path / "sscd_disc_mixup.torchvision.pt")
    from_folder = CopyEmbedder(str(tmp_path), CPU, architecture=tiny)
    from_file = CopyEmbedder(str(sscd_file), CPU, architecture=tiny)
    np.testing.assert_array_equal(from_folder.pictures(drawings), from_file.pictures(drawings))
    assert from_folder.fingerprint != from_file.fingerprint  # of the files


def test_a_scripted_module_is_never_loaded_by_torch(
    tmp_path: Path, sscd: SSCD, tiny: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sscd.pt"
    save_script(original(sscd, tiny), path, "script")

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a stranger's file was given to torch")

    for place in (torch.jit, torch, torch.serialization):
        monkeypatch.setattr(place, "load", loaded)
    assert CopyEmbedder(str(path), CPU, architecture=tiny).kind == "copy"


@pytest.mark.fault(15)
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, tiny: Architecture) -> None:
    class Hostile:
        def __reduce__(self) -> object:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "sscd.torchscript.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sscd/data.pkl", pickle.dumps(Hostile(), protocol=2))
    message = rf"^{re.escape(str(path))}: asks for \w+\.system, .*; {re.escape(WAY)}$"
    with pytest.raises(ElfError, match=message):
        CopyEmbedder(str(path), CPU, architecture=tiny)
    assert not (tmp_path / "ran").exists()


def classy(name: str, blocks: str) -> str:
    """Return Classy Vision's name of a weight, with its blocks counted or called by name."""
    name = re.sub(r"backbone\.conv1", "backbone.initial_block._module.0", name)
    name = re.sub(r"backbone\.bn1", "backbone.initial_block._module.1", name)
    name = name.replace("backbone.fc", "embeddings.1")
    inner = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6}
    if found := re.fullmatch(r"backbone\.layer(\d)\.(\d)\.(.+)\.(\w+)", name):
        stage, block, layer, kind = int(found[1]) - 1, found[2], found[3], found[4]
        if layer in inner:
            layer = f"convolutional_block.{inner[layer]}"
        layer = "bn" if layer == "bn3" else layer
        return f"backbone.blocks.{stage}.{blocks.format(stage, block)}.{layer}.{kind}"
    return name


@pytest.mark.parametrize("blocks", ["{1}", "block{0}-{1}", "{1}._module"])
def test_classy_visions_names_are_understood(
    tmp_path: Path,
    sscd: SSCD,
    sscd_file: Path,
    tiny: Architecture,
    drawings: list[Image.Image],
    blocks: str,
) -> None:
    renamed = {classy(name, blocks): value for name, value in sscd.state_dict().items()}
    assert not renamed.keys() & sscd.state_dict().keys()
    save_file(renamed, tmp_path / "classy.safetensors")
    made = CopyEmbedder(str(tmp_path), CPU, architecture=tiny).pictures(drawings)
    expected = CopyEmbedder(str(sscd_file), CPU, architecture=tiny).pictures(drawings)
    np.testing.assert_array_equal(made, expected)


def test_all_names_of_a_resnet50_have_a_classy_form() -> None:
    with torch.device("meta"):
        names = SSCD(Architecture()).state_dict().keys()
    assert [torchvision_name(classy(name, "{1}")) for name in names] == list(names)
    assert len(names) == 320


def test_the_real_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = SSCD(Architecture())
        assert network(torch.empty(2, 3, 288, 400)).shape == (2, 512)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == 25_557_032 - 1000 * 2049 + 512 * 2049  # torchvision's ResNet-50, another head


def test_pooling_is_the_mean_of_cubes() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])
    expected = ((1 + 8 + 27 + 1e-18) / 4) ** (1 / 3)
    assert GeneralisedMean()(x).item() == pytest.approx(expected, rel=1e-6)


def test_half_precision_weights_are_run_in_float32(
    tmp_path: Path, sscd: SSCD, tiny: Architecture, drawings: list[Image.Image]
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in sscd.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    embedder = CopyEmbedder(str(tmp_path), CPU, architecture=tiny)
    assert {weight.dtype for weight in embedder.network.parameters()} == {torch.float32}
    assert embedder.pictures(drawings).dtype == np.float32


Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s | {"backbone.fc.weight": torch.zeros(8, 2048)},
         r"backbone\.fc\.weight has the shape \(8, 2048\), not \(16, 2048\)"),
        (lambda s: {k: v for k, v in s.items() if "layer2.0.conv2" not in k},
         r"backbone\.layer2\.0\.conv2\.weight is missing"),
        (lambda s: s | {"backbone.layer1.1.conv1.weight": torch.zeros(1)},
         r"backbone\.layer1\.1\.conv1\.weight is none of its weights"),
        (lambda s: s | {"backbone.bn1.bias": torch.zeros(64, dtype=torch.int32)},
         r"backbone\.bn1\.bias is of type torch\.int32"),
        (lambda s: s | {"embeddings.1.bias": torch.zeros(16)},
         r"two of its weights are backbone\.fc\.bias"),
        (lambda s: {"vit.weight": torch.zeros(2, 2)}, r"backbone\.conv1\.weight is missing"),
    ],
)  # fmt: skip
def test_another_network_is_one_line(
    tmp_path: Path, sscd_file: Path, tiny: Architecture, change: Change, problem: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(dict(change(load_file(sscd_file))), path)
    with pytest.raises(ElfError) as caught:
        CopyEmbedder(str(path), CPU, architecture=tiny)
    found = re.escape(f"{path}: not the weights of SSCD's ResNet-50 (")
    assert re.fullmatch(rf"{found}{problem}\); {re.escape(WAY)}", str(caught.value))


def test_the_real_network_takes_no_small_one(sscd_file: Path) -> None:
    with pytest.raises(
        ElfError, match=r"layer1\.0\.conv1\.weight has the shape \(4, 64, 1, 1\), n"
    ):
        CopyEmbedder(str(sscd_file), CPU)


def test_a_frozen_script_has_no_names(tmp_path: Path, sscd: SSCD, tiny: Architecture) -> None:
    save_script(original(sscd, tiny), tmp_path / "frozen.pt", "freeze")
    with pytest.raises(ElfError, match="it holds no weights by names, as a frozen TorchScript"):
        CopyEmbedder(str(tmp_path), CPU, architecture=tiny)


def test_a_script_that_is_cut_is_one_line(tmp_path: Path, sscd: SSCD, tiny: Architecture) -> None:
    path = tmp_path / "sscd.pt"
    save_script(original(sscd, tiny), path, "script")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ElfError, match=r"no whole archive of torch's \(File is not a zip file\); "):
        CopyEmbedder(str(path), CPU, architecture=tiny)


def test_a_folder_must_hold_one_such_file(tmp_path: Path, sscd_file: Path) -> None:
    with pytest.raises(ElfError, match=r"holds 0 files that end with \.safetensors or \.pt, not"):
        CopyEmbedder(str(tmp_path), CPU)
    for name in ("a.pt", "b.safetensors"):
        shutil.copy(sscd_file, tmp_path / name)
    with pytest.raises(ElfError, match=r"holds 2 files .*; give the path of the file, or download"):
        CopyEmbedder(str(tmp_path), CPU)
