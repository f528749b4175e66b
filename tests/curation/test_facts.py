"""What a picture's bytes say, whatever kind of picture they are."""

import json
import struct

import numpy as np
import pytest
from PIL import Image

from elf.curation import facts as module
from elf.curation.facts import THUMBNAIL, Facts, Refusal, look_at, unpack
from elf.curation.perceptual import GRAY, distance
from elf.images import BadImage

MODES = {
    "L": {}, "LA": {}, "P": {}, "RGBA": {}, "1": {}, "I;16": {},
    "CMYK": {"format": "JPEG"}, "YCbCr": {"format": "JPEG"},
}  # fmt: skip


def in_mode(image, mode):
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        alpha = Image.new("L", image.size, 255)
        alpha.paste(0, (0, 0, 16, 16))
        image = image.convert(mode[:-1])
        image.putalpha(alpha)
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_look_alike(scene, saved, mode):
    whole, _ = look_at(saved(scene(0)))
    facts, thumbnail = look_at(saved(in_mode(scene(0), mode), **MODES[mode]))
    assert (facts.width, facts.height) == scene(0).size
    hashes = [np.frombuffer(f.hash, np.uint8)[None] for f in (whole, facts)]
    assert distance(*hashes) <= (60 if mode == "1" else 20)
    assert thumbnail.startswith(b"\xff\xd8")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_facts_come_back_from_their_bytes(scene, saved, format):
    data = saved(scene(1), format)
    facts, _ = look_at(data)
    assert unpack(facts.pack()) == facts
    assert (facts.format, facts.size) == (format, len(data))
    assert (len(facts.hash), len(facts.gray)) == (32, GRAY * GRAY)


def test_an_even_picture_has_no_hash(saved):
    facts, _ = look_at(saved(Image.new("RGB", (80, 60), "white")))
    assert facts.hash == b"" and unpack(facts.pack()) == facts


@pytest.mark.parametrize("quality", [20, 30, 50, 75, 90, 96])
def test_the_quality_of_a_jpeg_is_read_off_its_tables(scene, saved, quality):
    facts, _ = look_at(saved(scene(1), "JPEG", quality=quality))
    assert abs(facts.fidelity - quality) <= 2


def test_losses_rank_formats(scene, saved):
    def fidelity(format, **options):
        return look_at(saved(scene(1), format, **options))[0].fidelity

    assert fidelity("PNG") == fidelity("BMP") == fidelity("WEBP", lossless=True) == 100
    assert fidelity("GIF") < fidelity("WEBP") < fidelity("JPEG", quality=95) < 100


def test_a_picture_on_its_side_is_turned(scene, saved):
    exif = Image.Exif()
    exif[0x0112] = 6
    facts, _ = look_at(saved(scene(1), "JPEG", exif=exif, quality=95))
    upright, _ = look_at(saved(scene(1).transpose(Image.Transpose.ROTATE_270)))
    assert (facts.width, facts.height) == scene(1).size[::-1]
    hashes = [np.frombuffer(f.hash, np.uint8)[None] for f in (upright, facts)]
    assert distance(*hashes) <= 12


def test_a_border_is_not_shown(scene, saved):
    canvas = Image.new("RGB", (960, 720))
    canvas.paste(scene(2), (200, 100))
    facts, _ = look_at(saved(canvas))
    assert facts.shown == pytest.approx(0.25, abs=0.01)
    assert facts.pixels == pytest.approx(480 * 360, rel=0.03)


def test_a_thumbnail_is_small(scene, saved):
    import io

    for size in ((900, 300), (20, 10), (3000, 2)):
        _, data = look_at(saved(scene(2).resize(size)))
        with Image.open(io.BytesIO(data)) as thumbnail:
            assert max(thumbnail.size) == min(THUMBNAIL, max(size)) or size == (3000, 2)
            assert max(thumbnail.size) <= THUMBNAIL


def test_a_large_jpeg_is_decoded_smaller_with_the_same_result(scene, saved):
    large = scene(3).resize((1920, 1440), Image.Resampling.BICUBIC)
    jpeg, _ = look_at(saved(large, "JPEG", quality=95))
    png, _ = look_at(saved(large))
    hashes = [np.frombuffer(f.hash, np.uint8)[None] for f in (jpeg, png)]
    assert distance(*hashes) <= 6
    assert abs(jpeg.figures.blur - png.figures.blur) < 0.1
    assert jpeg.width == 1920


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_refused(damage):
    with pytest.raises(BadImage):
        look_at(damage)


def test_a_cut_picture_is_refused(scene, saved):
    for format in ("JPEG", "PNG", "WEBP"):
        data = saved(scene(1), format)
        with pytest.raises(BadImage):
            look_at(data[: len(data) // 2])


def test_a_refusal_holds_for_its_decoder_alone(monkeypatch):
    refusal = Refusal("damaged")
    assert unpack(refusal.pack()) == refusal
    monkeypatch.setattr(module.PIL, "__version__", "99.0")
    assert unpack(refusal.pack()) is None


def test_the_bytes_are_those_that_were_kept_before(scene, saved):
    """What a cache holds must stay readable: another layout needs another VERSION."""
    facts, _ = look_at(saved(scene(1)))
    data = facts.pack()
    (length,) = struct.unpack_from("<I", data)
    assert module.VERSION == 1
    assert set(json.loads(data[4 : 4 + length])) == {
        "width", "height", "size", "format", "fidelity", "figures", "shown", "hash", "gray"
    }  # fmt: skip
    assert isinstance(unpack(data), Facts)
