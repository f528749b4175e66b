"""The contact sheet: every picture where it belongs, captions that fit."""

from PIL import Image

from elf.watching.fonts import font, width, wrap
from elf.watching.sheet import LEAST, Line, contact_sheet, enlarged


def line(*colors: str, caption: str = "wood_elf", size: tuple[int, int] = (200, 200)) -> Line:
    return Line(caption, "seed 0", [Image.new("RGB", size, color) for color in colors])


def box(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Return where a colour lies."""
    mask = Image.new("1", sheet.size)
    mask.putdata([pixel == color for pixel in sheet.get_flattened_data()])
    return mask.getbbox()


def test_strengths_stand_side_by_side_prompts_below_each_other() -> None:
    sheet = contact_sheet([line("#f00", "#0f0"), line("#00f", "#ff0")], ["base", "1"], "run", "0")
    red, green, blue = (box(sheet, c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    assert red and green and blue
    assert red[1] == green[1] and red[2] < green[0]
    assert blue[0] == red[0] and red[3] < blue[1]
    assert all(b[2] - b[0] == b[3] - b[1] == 200 for b in (red, green, blue))


def test_with_one_strength_prompts_stand_side_by_side() -> None:
    sheet = contact_sheet([line("#f00"), line("#0f0")], ["1"], "run", "step 0")
    red, green = box(sheet, (255, 0, 0)), box(sheet, (0, 255, 0))
    assert red and green and red[1] == green[1] and red[2] < green[0]


def test_pictures_of_other_shapes_are_whole() -> None:
    lines = [line("#f00", size=(300, 200)), line("#0f0", size=(200, 300))]
    sheet = contact_sheet(lines, ["1"], "run", "step 0")
    red, green = box(sheet, (255, 0, 0)), box(sheet, (0, 255, 0))
    assert red and (red[2] - red[0], red[3] - red[1]) == (300, 200)
    assert green and (green[2] - green[0], green[3] - green[1]) == (200, 300)


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    assert enlarged(Image.new("RGB", (64, 80))).size == (192, 240)
    large = Image.new("RGB", (LEAST, 1000))
    assert enlarged(large) is large


def test_captions_are_wrapped_and_cut_to_the_room_there_is() -> None:
    type_ = font(14)
    text = "a long prompt of many words, " * 20
    lines = wrap(text, type_, 150, 3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(width(each, type_) <= 150 for each in lines)
    assert wrap("w" * 100, type_, 150, 2)[-1].endswith("…")
    assert wrap("short", type_, 150, 3) == ["short"]
    assert wrap("", type_, 150, 3) == []


def test_an_empty_prompt_and_a_long_name_make_a_sheet() -> None:
    sheet = contact_sheet([line("#f00", caption="")], ["1"], "n" * 300, "step 1,000")
    assert sheet.width < 260
