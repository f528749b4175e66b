"""Arrays from libjpeg-turbo directly are what Pillow gives, and Pillow alone judges damage."""

import io

import numpy as np
import pytest
from PIL import Image

from elf import jpeg
from elf.images import BadImage, decode_small
from elf.jpeg import decode_pixels


def half(width, height):
    return max(1, width // 2), max(1, height // 2)


def photograph(width=90, height=64, mode="RGB", **save):
    draw = np.random.default_rng(width)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(
        buffer, **{"format": "JPEG"} | save
    )
    return buffer.getvalue()


def exif(number):
    values = Image.Exif()
    values[0x0112] = number
    return values


FILES = {
    **{f"turned {number}": photograph(exif=exif(number)) for number in range(1, 9)},
    **{f"subsampling {number}": photograph(subsampling=number, quality=92) for number in range(3)},
    "progressive": photograph(progressive=True),
    "odd": photograph(91, 63),
    "one pixel": photograph(1, 1),
    "kept as RGB": photograph(keep_rgb=True),
    "gray": photograph(mode="L"),
    "CMYK": photograph(mode="CMYK"),
    "PNG": photograph(format="PNG"),
    "extra bytes": photograph() + b"more",
}


@pytest.mark.parametrize("needed", [None, half], ids=["whole", "half"])
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_pillows(name, needed):
    image, size = decode_small(FILES[name], needed)
    pixels, whole = decode_pixels(FILES[name], needed)
    assert whole == size and pixels.flags.c_contiguous
    assert np.array_equal(pixels, image)


@pytest.mark.parametrize("name", ["turned 6", "subsampling 2", "progressive", "extra bytes"])
def test_sound_jpegs_are_not_decoded_by_pillow(monkeypatch, name):
    monkeypatch.setattr(jpeg, "decode_small", None)
    assert decode_pixels(FILES[name])[0].shape[2] == 3


@pytest.mark.parametrize("cut", [1, 3, 40, 400])
def test_a_truncated_jpeg_is_judged_by_pillow(cut):
    data = FILES["odd"][:-cut]
    outcomes = []
    for decode in (decode_small, decode_pixels):
        try:
            outcomes.append(np.array(decode(data, None)[0]).tobytes())
        except BadImage as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if cut > 3:
        assert "damaged" in outcomes[0]


def test_too_large_a_jpeg_is_refused_as_by_pillow(monkeypatch):
    monkeypatch.setattr("elf.images.MAX_PIXELS", 99)
    monkeypatch.setattr(jpeg, "MAX_PIXELS", 99)
    with pytest.raises(BadImage, match=r"more than 99 pixels: make it smaller"):
        decode_pixels(FILES["odd"])
