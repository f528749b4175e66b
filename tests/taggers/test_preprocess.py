import pickle

import numpy as np
import pytest
from PIL import Image

from elf.taggers import FlorencePreprocess, Preprocess, WDPreprocess
from elf.taggers.bicubic import resize


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def plain_recipe(image, size):
    """The authors' recipe once more, in arrays: pad to a white square, then resize."""
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = pixels
    if side == size:
        return square
    wide = Image.fromarray(square).resize((size, side), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (65, 64), (100, 37), (37, 100), (20, 9), (1, 1), (1, 300)]
)
def test_wd_equals_the_authors_recipe(width, height):
    image = noise(width, height)
    pixels = WDPreprocess(64)(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (64, 64, 3)
    assert (pixels == plain_recipe(image, 64)).all()


def test_wd_pads_with_white_on_both_sides():
    pixels = WDPreprocess(64)(Image.new("RGB", (32, 64)))
    assert (pixels[:, :15] == 255).all() and (pixels[:, -15:] == 255).all()
    assert (pixels[:, 17:47] == 0).all()


def test_a_long_strip_needs_no_giant_square():
    strip = WDPreprocess(64)(Image.new("RGB", (60_000, 1)))
    assert strip.shape == (64, 64, 3)
    assert (strip[:31] == 255).all() and (strip[33:] == 255).all() and (strip == 0).any()


def test_beyond_the_limit_the_result_is_nearly_that_of_the_recipe(monkeypatch):
    ramp = np.linspace(0, 255, 900 * 600 * 3).astype(np.uint8).reshape(600, 900, 3)
    image = Image.fromarray(ramp)
    exact = WDPreprocess(64)(image).astype(int)
    monkeypatch.setattr("elf.taggers.preprocess.MAX_SQUARE", 100)
    inside = slice(14, 50)  # the borders of the picture fall between pixels
    assert np.abs(WDPreprocess(64)(image) - exact)[inside].mean() < 3


def test_florence_resizes_without_keeping_the_ratio():
    image = noise(90, 50)
    pixels = FlorencePreprocess(48, 64)(image)
    assert pixels.shape == (48, 64, 3)
    assert (pixels == np.asarray(resize(image, 48, 64))).all()
    nearest = FlorencePreprocess(48, 64, resample=0)(image)
    assert (nearest == np.asarray(image.resize((64, 48), Image.Resampling.NEAREST))).all()


def test_all_parts_from_one_picture_and_picklable():
    transform = Preprocess({"wd": WDPreprocess(32), "florence": FlorencePreprocess(16, 16)})
    assert pickle.loads(pickle.dumps(transform)) == transform
    shapes = {name: pixels.shape for name, pixels in transform(noise(9, 9)).items()}
    assert shapes == {"wd": (32, 32, 3), "florence": (16, 16, 3)}


@pytest.mark.parametrize(
    ("width", "height", "by"),
    [
        *((1024, 1024, 4), (2048, 2048, 8), (2048, 1024, 8), (286, 286, 1), (288, 288, 2)),
        (1022, 1022, 2),  # 4 does not divide it
        (1024, 1020, 2),  # 4 divides both, and not the border of 2 px
        (1024, 1022, 1),  # a border of 1 px
        (9001, 8, 1),
    ],
)
def test_a_jpeg_is_decoded_small_only_where_nothing_shifts(width, height, by):
    assert WDPreprocess(64).shrinks_by(width, height) == by
    assert WDPreprocess(64).shrinks_by(height, width) == by


def test_the_captioners_shorter_side_counts():
    assert FlorencePreprocess(64, 64).shrinks_by(2048, 288) == 2
    assert FlorencePreprocess(64, 64).shrinks_by(2048, 280) == 1


def test_all_models_must_have_enough_pixels():
    parts = {"wd": WDPreprocess(32), "florence": FlorencePreprocess(64, 64)}
    fast = Preprocess(parts, "fast")
    assert fast.needed(["wd"])(1024, 1024) == (128, 128)
    assert fast.needed(["wd", "florence"])(1024, 1024) == (256, 256)
    assert Preprocess(parts, "exact").needed(["wd"]) is None
    assert (fast.version, Preprocess(parts).version) == ("fast2", "exact1")


@pytest.mark.parametrize("size", [(1280, 1280), (1024, 700), (333, 517), (449, 448), (30, 20)])
def test_fast_pixels_are_nearly_the_exact_ones(size):
    image = noise(*size)
    parts = {"wd": WDPreprocess(448), "florence": FlorencePreprocess(300, 320)}
    exact, fast = (Preprocess(parts, decode)(image) for decode in ("exact", "fast"))
    for name in parts:
        off = np.abs(exact[name].astype(int) - fast[name])
        assert fast[name].dtype == np.uint8 and fast[name].shape == exact[name].shape
        assert off.max() <= 2 and off.mean() < 0.02


def test_fast_leaves_other_filters_to_pillow():
    image = noise(90, 50)
    parts = {"florence": FlorencePreprocess(32, 40, resample=0)}
    exact, fast = (Preprocess(parts, decode)(image) for decode in ("exact", "fast"))
    assert (exact["florence"] == fast["florence"]).all()


def test_a_threads_memory_is_used_again_without_a_trace():
    wide, tall = noise(200, 90), noise(80, 170, seed=1)
    exact, fast = (Preprocess({"wd": WDPreprocess(64)}, decode) for decode in ("exact", "fast"))
    kept = []
    for image in (wide, tall, wide, Image.new("RGB", (300, 300)), Image.new("RGB", (9000, 1))):
        kept.append((exact(image)["wd"], fast(image)["wd"]))
    for one, other in kept:  # after all of them: no result lies in the memory that is used again
        assert np.abs(one.astype(int) - other).max() <= 2
