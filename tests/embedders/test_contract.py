"""What holds for every embedder, whatever its kind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from elf.embedders import (
    CLIPEmbedder,
    CopyEmbedder,
    DinoEmbedder,
    PictureEmbedder,
    TaggerEmbedder,
    make_embedder,
)
from elf.embedders.interface import fingerprint, require_finite
from elf.embedders.sscd import Architecture
from elf.errors import ElfError
from elf.resources import shipped
from elf.tiny.timm_tagger import build as build_tagger

CPU = torch.device("cpu")
KINDS = ("clip", "dino", "copy", "tagger", "torch tagger")
Make = Callable[..., PictureEmbedder]


@pytest.fixture
def weights(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    dino_folders: dict[str, Path],
    sscd_file: Path,
) -> Path:
    """A folder of its own with the weights of the test's kind."""
    kind, folder = request.param, tmp_path / "model"
    sources = {
        "clip": shipped("models/tiny/clip"),
        "dino": dino_folders["dinov2"],
        "copy": sscd_file.parent,
        "tagger": shipped("models/tiny/tagger"),
    }
    if kind == "torch tagger":
        return build_tagger(folder)
    return Path(shutil.copytree(sources[kind], folder))


@pytest.fixture
def make(request: pytest.FixtureRequest, weights: Path, tiny: Architecture) -> Make:
    """Make the embedder of the test's kind from a folder."""
    kind = request.node.callspec.params["weights"].split()[-1]

    def made(folder: Path = weights, batch_size: int = 16) -> PictureEmbedder:
        options = {"architecture": tiny} if kind == "copy" else {}
        classes = {
            "clip": CLIPEmbedder,
            "dino": DinoEmbedder,
            "copy": CopyEmbedder,
            "tagger": TaggerEmbedder,
        }
        return classes[kind](str(folder), CPU, batch_size, **options)

    return made


every = pytest.mark.parametrize("weights", KINDS, indirect=True)
of_torch = pytest.mark.parametrize("weights", [k for k in KINDS if k != "tagger"], indirect=True)


def change(folder: Path, alter: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Alter the first layer that sees a picture."""
    path = next(folder.glob("*.safetensors"))
    state = load_file(path)
    first = (
        "patch_embedding.weight",
        "patch_embeddings.projection.weight",
        "conv1.weight",
        "patch_embed.proj.weight",
    )
    name = next(name for name in state if name.endswith(first))
    save_file(state | {name: alter(state[name]).contiguous()}, path, {"format": "pt"})


@every
def test_a_picture_has_one_row_of_float32(make: Make, drawings: list[Image.Image]) -> None:
    rows = make().pictures(drawings)
    assert rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == len(drawings)
    assert rows.shape[1] > 8
    assert len(np.unique(rows.round(4), axis=0)) == len(drawings)  # it tells them apart


@every
def test_a_row_depends_on_no_other_picture(make: Make, drawings: list[Image.Image]) -> None:
    twice = [*drawings, *drawings[::-1]]
    together = make(batch_size=16).pictures(twice)
    alone = make(batch_size=1).pictures(twice)
    tolerance = 1e-5 * np.abs(alone).max()
    np.testing.assert_allclose(together, alone, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(alone[: len(drawings)], alone[: len(drawings) - 1 : -1])


@every
def test_what_shows_no_colour_is_embedded_as_its_colours(
    make: Make, drawings: list[Image.Image]
) -> None:
    grey = drawings[0].convert("L")
    embedder = make()
    np.testing.assert_array_equal(
        embedder.pictures([grey]), embedder.pictures([grey.convert("RGB")])
    )


@every
def test_no_pictures_are_no_rows(make: Make) -> None:
    assert make().pictures([]).shape == (0, 0)


@every
def test_the_fingerprint_is_of_the_files_and_not_of_their_place(
    make: Make, weights: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(weights, tmp_path / "elsewhere"))
    assert make().fingerprint == make(moved).fingerprint
    assert len(make().fingerprint) == 64


@of_torch
def test_other_weights_have_another_fingerprint(
    make: Make, weights: Path, drawings: list[Image.Image]
) -> None:
    before = make()
    first, rows = before.fingerprint, before.pictures(drawings)
    change(weights, lambda weight: weight.flip(0))
    after = make()
    assert after.fingerprint != first
    assert not np.allclose(after.pictures(drawings), rows)


@pytest.mark.parametrize("weights", ["clip", "dino"], indirect=True)
def test_another_preprocessing_has_another_fingerprint(make: Make, weights: Path) -> None:
    first = make().fingerprint
    path = next(weights.glob("*processor_config.json"))
    text = path.read_text()
    path.write_text(text.replace('"resample": 3', '"resample": 2'))
    assert path.read_text() != text
    assert make().fingerprint != first


@pytest.mark.parametrize("weights", ["clip", "dino", "copy"], indirect=True)
def test_values_that_are_not_finite_are_refused_by_name(
    make: Make, weights: Path, drawings: list[Image.Image]
) -> None:
    change(weights, lambda weight: torch.full_like(weight, torch.nan))
    names = [f"{number}.png" for number in range(len(drawings))]
    embedder = make(batch_size=2)
    with pytest.raises(ElfError) as caught:
        embedder.pictures(drawings, names)
    text = str(caught.value)
    assert text.startswith(f"{embedder.kind} embedder {weights} gives values that are not finite")
    assert "for 0.png; its weights are damaged or overflow" in text and "\n" not in text


@pytest.mark.parametrize("weights", ["clip", "dino"], indirect=True)
def test_autocast_around_it_changes_nothing(make: Make, drawings: list[Image.Image]) -> None:
    embedder = make()
    rows = embedder.pictures(drawings)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(embedder.pictures(drawings), rows)


@pytest.mark.parametrize("weights", ["clip", "dino"], indirect=True)
def test_weights_that_are_missing_are_not_drawn_at_random(make: Make, weights: Path) -> None:
    path = weights / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith("norm1.weight") or "layer_norm1" in name)
    save_file({k: v for k, v in state.items() if k != name}, path, {"format": "pt"})
    with pytest.raises(ElfError, match=rf"lacks 1 weights of the network in config.json \({name}"):
        make()


@pytest.mark.parametrize("weights", ["clip", "dino", "copy"], indirect=True)
def test_a_damaged_file_is_one_line(make: Make, weights: Path) -> None:
    path = next(weights.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ElfError, match=r"could not be (loaded|read)") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_picture_that_is_not_finite_is_counted_across_batches() -> None:
    rows = np.ones((3, 2), np.float32)
    rows[1, 0] = np.inf
    require_finite(rows[:1], "m")
    with pytest.raises(ElfError, match=r"^m gives values .* for picture 6; its weights"):
        require_finite(rows, "m", first=4)
    with pytest.raises(ElfError, match=r"^m gives values .* for c; its weights"):
        require_finite(rows, "m", ["a", "b", "c", "d"], first=1)


def test_facts_and_kinds_are_part_of_a_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"x")
    made = {fingerprint(kind, [path], size) for kind in ("clip", "dino") for size in (1, 2)}
    assert len(made) == 4


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        ("clip", "openai/clip-vit-large-patch14 (1.7 GB)"),
        ("dino", "facebook/dinov2-base (0.35 GB)"),
        ("tagger", "SmilingWolf/wd-swinv2-tagger-v3 (0.5 GB)"),
    ],
)
def test_missing_weights_are_named_with_size_and_command(kind: str, example: str) -> None:
    with pytest.raises(ElfError) as caught:
        make_embedder(kind, "nobody/nothing", CPU)
    text = str(caught.value)
    assert "nobody/nothing is not on this machine and could not be downloaded" in text
    assert "`hf download nobody/nothing --local-dir models/nobody/nothing`" in text
    assert "needed: " in text and example in text and "\n" not in text


@pytest.mark.parametrize("kind", ["clip", "dino", "tagger"])
def test_a_folder_that_is_not_there_says_how_to_get_one(kind: str) -> None:
    with pytest.raises(ElfError) as caught:
        make_embedder(kind, "./nowhere", CPU)
    text = str(caught.value)
    assert "no folder ./nowhere" in text and "`hf download " in text and "GB" in text


def test_missing_copy_detection_says_what_to_download() -> None:
    for name in ("./nowhere.pt", "./nowhere"):
        with pytest.raises(ElfError, match=rf"no file {name}; download https://\S+ \(0.1 GB\)"):
            make_embedder("copy", name, CPU)
    with pytest.raises(ElfError, match=r"could not be downloaded .*needed: \*\.safetensors"):
        make_embedder("copy", "nobody/nothing", CPU)


def test_the_factory_knows_its_kinds() -> None:
    assert isinstance(make_embedder("clip", "models/tiny/clip", CPU), CLIPEmbedder)
    assert make_embedder("tagger", "models/tiny/tagger", CPU).kind == "tagger"
    with pytest.raises(ElfError, match="no kind 'vgg'; choose one of clip, dino, copy, tagger"):
        make_embedder("vgg", "models/tiny/clip", CPU)
