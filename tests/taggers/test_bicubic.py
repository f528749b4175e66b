import numpy as np
import pytest
from PIL import Image

from elf.taggers import bicubic as module
from elf.taggers.bicubic import TOLERANCE, bicubic, resize


def noise(width, height, seed=0, kind="bytes"):
    draw = np.random.default_rng(seed)
    if kind == "ends":  # only 0 and 255: where rounding and clipping are at their worst
        return (draw.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    return draw.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillows(pixels, height, width):
    return np.asarray(resize(Image.fromarray(pixels), height, width))


@pytest.mark.parametrize("kind", ["bytes", "ends"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(((1280, 1280), (448, 448)), ((700, 1024), (448, 448)), ((333, 517), (320, 300))),
        *(((449, 448), (448, 448)), ((448, 900), (448, 448)), ((90, 50), (64, 48))),
        *(((40, 300), (16, 200)), ((2, 359), (1, 217)), ((3, 470), (2, 300))),
    ],
)
def test_it_is_pillows_within_the_tolerance(source, target, kind):
    for seed in range(3):
        pixels = noise(*source, seed, kind)
        off = np.abs(
            bicubic(pixels, target[1], target[0]).astype(int) - pillows(pixels, *target[::-1])
        )
        assert off.max() <= TOLERANCE
        assert off.mean() < 0.02


@pytest.mark.parametrize(("source", "target"), [((30, 20), (64, 64)), ((30, 200), (64, 64))])
def test_what_becomes_larger_is_pillows_to_the_bit(source, target):
    pixels = noise(*source, kind="ends")
    assert (bicubic(pixels, target[1], target[0]) == pillows(pixels, *target[::-1])).all()


def test_the_horizontal_pass_comes_first_in_every_version_of_pillow():
    """Pillow 13 takes the vertical one first for this shape; the two orders round differently."""
    image = Image.fromarray(noise(333, 517, kind="ends"))
    bicubic_ = Image.Resampling.BICUBIC
    expected = image.resize((320, 517), bicubic_).resize((320, 300), bicubic_)
    other = image.resize((333, 300), bicubic_).resize((320, 300), bicubic_)
    assert np.array_equal(resize(image, 300, 320), expected)
    assert np.abs(np.asarray(expected).astype(int) - other).max() > 8


def test_a_kernel_that_is_not_pillows_is_not_used(monkeypatch):
    monkeypatch.setattr(module, "_by_torch", lambda pixels, height, width: pixels[:height, :width])
    module._is_pillows.cache_clear()
    pixels = noise(90, 70)
    try:
        with pytest.warns(UserWarning, match=r"torch resizes to 33x32 px differently from Pillow"):
            small = bicubic(pixels, 32, 33)
        assert (small == pillows(pixels, 32, 33)).all()
        assert (bicubic(pixels, 32, 33) == small).all()  # and says so once
    finally:
        module._is_pillows.cache_clear()
