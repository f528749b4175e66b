import numpy as np
import pytest
from PIL import Image

from elf.taggers import bicubic as module
from elf.taggers.bicubic import NARROWEST, TOLERANCE, bicubic


def noise(width, height, seed=0, kind="bytes"):
    draw = np.random.default_rng(seed)
    if kind == "ends":  # only 0 and 255: where rounding and clipping are at their worst
        return (draw.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    return draw.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillows(pixels, height, width):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("kind", ["bytes", "ends"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(((1280, 1280), (448, 448)), ((700, 1024), (448, 448)), ((333, 517), (320, 300))),
        *(((449, 448), (448, 448)), ((448, 900), (448, 448)), ((90, 50), (64, 48))),
        ((40, 300), (NARROWEST, 200)),
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


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((30, 20), (64, 64)),
        ((30, 200), (64, 64)),
        ((300, 300), (NARROWEST - 1, 200)),
        ((3, 9), (1, 4)),
    ],
)
def test_what_becomes_larger_or_narrow_is_pillows_to_the_bit(source, target):
    pixels = noise(*source, kind="ends")
    assert (bicubic(pixels, target[1], target[0]) == pillows(pixels, *target[::-1])).all()


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
