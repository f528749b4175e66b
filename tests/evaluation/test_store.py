"""Pictures say what they were made of, and are made once."""

from pathlib import Path

import pytest
from PIL import Image

from elf.errors import ElfError
from elf.evaluation.plan import BASE, Variant
from elf.evaluation.store import PictureStore, picture_key

ADAPTER = Variant("elf × 1", 0, 1.0)
KEY = picture_key({"base": "x"}, "forest", 0)


def red() -> Image.Image:
    return Image.new("RGB", (8, 8), "red")


@pytest.mark.parametrize(
    "other",
    [
        picture_key({"base": "y"}, "forest", 0),
        picture_key({"base": "x"}, "forests", 0),
        picture_key({"base": "x"}, "forest", 1),
    ],
)
def test_what_decides_a_picture_decides_its_key(other: str) -> None:
    assert other != KEY
    assert picture_key({"base": "x"}, "forest", 0) == KEY


@pytest.mark.parametrize("variant", [BASE, ADAPTER])
def test_a_picture_is_kept_as_long_as_it_is_of_the_same(tmp_path: Path, variant: Variant) -> None:
    store = PictureStore(tmp_path, None)
    assert not store.has(variant, 3, KEY)
    store.add(variant, 3, KEY, red())
    assert PictureStore(tmp_path, None).has(variant, 3, KEY)
    assert not store.has(variant, 3, "another key")
    assert store.read(variant, 3).getpixel((0, 0)) == (255, 0, 0)
    assert store.path(variant, 3) == tmp_path / store.file(variant, 3)


@pytest.mark.parametrize("damage", ["cut", "empty", "no picture"])
def test_a_damaged_picture_is_none(tmp_path: Path, damage: str) -> None:
    store = PictureStore(tmp_path, None)
    store.add(ADAPTER, 0, KEY, red().resize((64, 64)))
    path = store.path(ADAPTER, 0)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-30], "empty": b"", "no picture": b"GIF"}[damage])
    assert not store.has(ADAPTER, 0, KEY)


def test_the_bases_pictures_serve_other_evaluations_and_no_others_do(tmp_path: Path) -> None:
    first = PictureStore(tmp_path / "first", tmp_path / "shared")
    for variant in (BASE, ADAPTER):
        first.add(variant, 0, KEY, red())
    second = PictureStore(tmp_path / "second", tmp_path / "shared")
    assert second.has(BASE, 5, KEY) and not second.has(ADAPTER, 5, KEY)
    assert second.path(BASE, 5).read_bytes() == first.path(BASE, 0).read_bytes()
    assert not second.has(BASE, 5, "another key")


def test_a_picture_of_another_nodes_folder_is_missed_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ElfError, match=r"0003\.png is missing; nodes need one trainer\.default_root"
    ):
        PictureStore(tmp_path, None).read(BASE, 3)
