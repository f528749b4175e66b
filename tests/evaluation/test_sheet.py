"""What the sheet of an evaluation shows."""

from pathlib import Path

from PIL import Image

from elf.evaluation.sheet import PAIRS, enlarged, grid, shown_pairs, write_sheet


def test_a_few_pairs_are_all_shown() -> None:
    plan = [(prompt, seed) for prompt in "abcd" for seed in range(PAIRS // 4)]
    assert shown_pairs(plan) == list(range(PAIRS))


def test_of_many_pairs_the_first_seed_of_each_prompt_is_shown() -> None:
    plan = [(prompt, seed) for seed in range(PAIRS // 4 + 1) for prompt in "abcd"]
    assert shown_pairs(plan) == [0, 1, 2, 3]


def test_no_sheet_is_longer() -> None:
    assert shown_pairs([(f"prompt {n}", 0) for n in range(100)]) == list(range(PAIRS))


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    picture = Image.new("RGB", (48, 64))
    picture.putpixel((3, 5), (255, 0, 0))
    large = enlarged(picture)
    assert large.size == (96, 128)
    assert large.getpixel((7, 11)) == (255, 0, 0)
    assert enlarged(Image.new("RGB", (128, 512))).size == (128, 512)


def test_base_and_adapter_stand_side_by_side(tmp_path: Path) -> None:
    colours = [[Image.new("RGB", (128, 128), colour) for colour in ("red", "blue")]]
    write_sheet(tmp_path / "grid.png", [("a", 0)], colours.__getitem__)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (2 * 130 - 2, 128)
        assert sheet.getpixel((5, 5)) == (255, 0, 0) and sheet.getpixel((135, 5)) == (0, 0, 255)


def test_pictures_make_a_grid() -> None:
    pictures = [Image.new("RGB", (10, 20), color) for color in ("red", "green", "blue")]
    sheet = grid(pictures, columns=2)
    assert sheet.size == (2 * 10 + 2, 2 * 20 + 2)
    assert sheet.getpixel((0, 0)) == (255, 0, 0)
    assert sheet.getpixel((12, 0)) == (0, 128, 0)
    assert sheet.getpixel((0, 22)) == (0, 0, 255)
    assert sheet.getpixel((12, 22)) == (255, 255, 255)
