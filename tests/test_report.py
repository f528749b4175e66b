"""What the grid of an evaluation shows."""

from pathlib import Path

from PIL import Image

from elf.report import GRID_PAIRS, enlarged, shown_pairs


def test_a_few_pairs_are_all_shown() -> None:
    plan = [(prompt, seed) for prompt in "abcd" for seed in range(GRID_PAIRS // 4)]
    assert shown_pairs(plan) == list(range(GRID_PAIRS))


def test_of_many_pairs_the_first_seed_of_each_prompt_is_shown() -> None:
    plan = [(prompt, seed) for seed in range(GRID_PAIRS // 4 + 1) for prompt in "abcd"]
    assert shown_pairs(plan) == [0, 1, 2, 3]


def test_small_pictures_are_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    picture = Image.new("RGB", (48, 64))
    picture.putpixel((3, 5), (255, 0, 0))
    picture.save(tmp_path / "small.png")
    large = enlarged(tmp_path / "small.png")
    assert large.size == (96, 128)
    assert large.getpixel((7, 11)) == (255, 0, 0)
    Image.new("RGB", (128, 512)).save(tmp_path / "large.png")
    assert enlarged(tmp_path / "large.png").size == (128, 512)
