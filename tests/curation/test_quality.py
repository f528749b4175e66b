"""Each flag, by a picture that has it and one that has not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from elf.curation.facts import look_at
from elf.curation.quality import FLAGS, Thresholds, blur, flags, usual_sizes, work_size

ANY = (0.0, np.inf)


def blurred(image, radius):
    return image.filter(ImageFilter.GaussianBlur(radius))


def portrait(image):
    """A sharp subject before a soft background."""
    mask = Image.new("L", image.size)
    w, h = image.size
    ImageDraw.Draw(mask).ellipse((0.35 * w, 0.2 * h, 0.65 * w, 0.8 * h), fill=255)
    return Image.composite(image, blurred(image, 8), blurred(mask, 2))


def night(image, lamp):
    image = image.point(lambda value: value * 0.2)
    if lamp:
        image.paste("white", (0, 0, image.width // 4, image.height // 4))
    return image


def on_white(image, share):
    canvas = Image.new("RGB", (400, 400), "white")
    side = round(400 * share**0.5)
    canvas.paste(image.resize((side, side)), (20, 20))
    return canvas


def flat(colour):
    return Image.new("RGB", (600, 600), colour)


def tinted(image, tint):
    return Image.blend(image.convert("L").convert("RGB"), image, tint)


HAS = {
    "blurry": lambda i: blurred(i, 4),
    "low_information": lambda i: flat("#808080"),
    "dark": lambda i: night(i, lamp=False),
    "light": lambda i: on_white(i, 0.03),
    "grayscale": lambda i: tinted(i, 0),
    "odd_aspect_ratio": lambda i: i.resize((1300, 400)),
    "small": lambda i: i.resize((511, 512)),
}
HAS_NOT = {
    "blurry": portrait,
    "low_information": lambda i: i.quantize(8).convert("RGB"),
    "dark": lambda i: night(i, lamp=True),
    "light": lambda i: on_white(i, 0.2),
    "grayscale": lambda i: tinted(i, 0.4),
    "odd_aspect_ratio": lambda i: i.resize((1000, 400)),
    "small": lambda i: i.resize((1024, 256)),
}


def flags_of(image, saved, usual=ANY, **thresholds):
    facts, _ = look_at(saved(image))
    size = (facts.width, facts.height)
    return flags(facts.figures, size, usual, 512, Thresholds(**thresholds))


def test_every_flag_has_its_pictures():
    assert {*HAS, "odd_size"} == {*HAS_NOT, "odd_size"} == set(FLAGS)


@pytest.mark.parametrize("flag", HAS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_flag_is_there_and_is_not(scene, saved, flag, seed):
    image = scene(seed, 640, 560)
    assert flag in flags_of(HAS[flag](image), saved)
    assert flag not in flags_of(HAS_NOT[flag](image), saved)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_ordinary_picture_has_no_flag(scene, saved, seed):
    assert flags_of(scene(seed, 640, 560), saved) == []


def test_recompression_changes_no_flag(scene, saved):
    image = blurred(scene(1, 640, 560), 4)
    facts, _ = look_at(saved(image, "JPEG", quality=60))
    assert flags(facts.figures, image.size, ANY, 512, Thresholds()) == ["blurry"]


def test_blur_grows_with_its_radius(scene):
    image = scene(5, 512, 512).convert("L")
    found = [blur(np.asarray(image))]
    found += [blur(np.asarray(blurred(image, radius))) for radius in (1, 2, 3, 5, 8)]
    assert found == sorted(found) and found[0] < 0.4 < 0.9 < found[-1] <= 1


def test_an_enlarged_picture_is_blurry(scene, saved):
    small = scene(6, 128, 128).resize((800, 800), Image.Resampling.BICUBIC)
    assert "blurry" in flags_of(small, saved)


def test_thresholds_move_flags(scene, saved):
    image = scene(0, 640, 560)
    assert "blurry" not in flags_of(image, saved)
    assert "blurry" in flags_of(image, saved, blurry=0.05)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (7, 9), (16, 3)])
def test_tiny_pictures_have_figures(saved, size):
    found = flags_of(Image.new("RGB", size, "red"), saved)
    assert {"small", "blurry", "low_information"} <= set(found)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (512, 512)), ((100, 80), (100, 80)), ((2048, 512), (1024, 256)),
     ((4096, 4096), (512, 512)), ((1_000_000, 1), (512_000, 1))],
)  # fmt: skip
def test_the_size_at_which_figures_are_measured(size, expected):
    assert work_size(*size) == expected


def test_an_odd_size_stands_out():
    draw = np.random.default_rng(0)
    sizes = [(int(w), int(1.2 * w)) for w in draw.normal(1000, 80, 50)]
    low, high = usual_sizes(sizes, 3)
    assert 300 < low < 800 and 1300 < high < 3000
    figures = None
    for size, odd in (((200, 240), True), ((1000, 1200), False), ((6000, 7000), True)):
        figures = figures or look_at_plain()
        found = flags(figures, size, (low, high), 1, Thresholds())
        assert ("odd_size" in found) is odd


def look_at_plain():
    from elf.curation.quality import Figures

    return Figures(0.2, 6.0, 0.9, 0.1, 0.5)


def test_among_equal_sizes_twice_as_large_is_not_odd_yet():
    low, high = usual_sizes([(512, 512)] * 20, 3)
    assert low <= 256 < 512 < 1024 <= high
    assert usual_sizes([], 3) == (0.0, np.inf)
    assert usual_sizes([(100, 100)], 3)[0] <= 100
