"""Pictures fit into the page, and those that cannot be shown leave a gap."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elf.errors import ElfError
from elf.evaluation.pictures import SIDES, Embedded, Gap, embed


def noise(folder: Path, number: int, size: int) -> list[str]:
    """Write pictures that no format can make small."""
    random = np.random.default_rng(0)
    names = []
    for place in range(number):
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        names.append(f"{place}.png")
        Image.fromarray(pixels).save(folder / names[-1], compress_level=0)
    return names


def opened(picture: Embedded | Gap) -> Image.Image:
    assert isinstance(picture, Embedded)
    head, text = picture.source.split(",", 1)
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert head == f"data:image/{(image.format or '').lower()};base64"
    assert image.size == (picture.width, picture.height)
    return image.convert("RGB")


def test_a_small_picture_keeps_each_pixel(tmp_path: Path) -> None:
    name = noise(tmp_path, 1, 64)[0]
    found = embed(tmp_path, [name])[name]
    assert isinstance(found, Embedded) and found.small
    assert np.array_equal(opened(found), Image.open(tmp_path / name))


def test_a_large_one_keeps_its_shape_and_its_look(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1500).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (750, 1500, 3))
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "ramp.png")
    found = embed(tmp_path, ["ramp.png"])["ramp.png"]
    image = opened(found)
    assert image.size == (1024, 512) and isinstance(found, Embedded) and not found.small
    expected = Image.open(tmp_path / "ramp.png").resize((1024, 512))
    assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).max() < 8


@pytest.mark.parametrize("budget", [60_000, 200_000, 600_000])
def test_all_together_stay_within_the_budget(tmp_path: Path, budget: int) -> None:
    names = noise(tmp_path, 6, 400)
    found = embed(tmp_path, names, budget)
    sizes = {max(opened(each).size) for each in found.values()}
    total = sum(len(each.source) for each in found.values() if isinstance(each, Embedded))
    assert len(sizes) == 1, "all are of one size"
    assert budget / 5 < total <= budget


def test_a_sample_that_looks_easy_does_not_break_the_budget(tmp_path: Path) -> None:
    hard = noise(tmp_path, 24, 256)
    for name in hard[::2]:  # the ones that the sample takes
        Image.new("RGB", (256, 256)).save(tmp_path / name)
    found = embed(tmp_path, hard, 100_000)
    total = sum(len(each.source) for each in found.values() if isinstance(each, Embedded))
    assert total <= 100_000


def test_nothing_is_smaller_than_the_smallest(tmp_path: Path) -> None:
    names = noise(tmp_path, 2, 256)
    assert {max(opened(each).size) for each in embed(tmp_path, names, 10).values()} == {SIDES[-1]}


def test_one_that_is_missing_or_damaged_leaves_a_gap(tmp_path: Path) -> None:
    names = noise(tmp_path, 2, 64)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:3000])
    (tmp_path / "folder.png").mkdir()
    found = embed(tmp_path, [*names, "gone.png", "folder.png"])
    assert opened(found["0.png"]).size == (64, 64)
    assert found["gone.png"] == Gap("missing")
    damaged, folder = found["1.png"], found["folder.png"]
    assert isinstance(damaged, Gap) and damaged.why.startswith("damaged")
    assert isinstance(folder, Gap) and folder.why.startswith("unreadable (")


def test_if_none_can_be_shown_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ElfError) as caught:
        embed(tmp_path, ["a.png", "b.png"])
    assert str(caught.value) == (
        f"{tmp_path / 'a.png'}: missing, and so are all 2 pictures that metrics.json names;"
        " move them back beside it, or run `elf test` again"
    )


def test_no_pictures_are_no_error(tmp_path: Path) -> None:
    assert embed(tmp_path, []) == {}
