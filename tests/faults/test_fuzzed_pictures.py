"""Fault 13: pictures damaged at random. Each is a picture or the one kind of error, and small."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elf.images import BadImage, decode_small
from elf.jpeg import decode_pixels

SAVES = {
    "jpeg": {"format": "JPEG", "quality": 90},
    "progressive": {"format": "JPEG", "progressive": True, "quality": 70},
    "png": {"format": "PNG"},
    "palette": {"format": "PNG", "mode": "P"},
    "rgba": {"format": "PNG", "mode": "RGBA"},
    "webp": {"format": "WEBP", "mode": "RGBA"},
    "lossless": {"format": "WEBP", "lossless": True},
    "gif": {"format": "GIF", "mode": "P"},
    "bmp": {"format": "BMP"},
}
LIMIT = 1 << 30  # bytes that a process may have taken at its peak


def seeds() -> list[bytes]:
    """Return whole pictures of every format, with an orientation and an animation among them."""
    draw = np.random.default_rng(0)
    found = []
    for save in SAVES.values():
        options = dict(save)
        mode = options.pop("mode", "RGB")
        smooth = Image.fromarray(draw.integers(0, 256, (4, 5, 4), dtype=np.uint8), "RGBA")
        image = smooth.resize((21, 17)).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        if options["format"] in ("JPEG", "PNG", "WEBP"):
            options["exif"] = exif
        buffer = io.BytesIO()
        more = [image.rotate(90), image.rotate(180)] if options["format"] in ("GIF", "WEBP") else []
        image.save(buffer, **options, **({"save_all": True, "append_images": more} if more else {}))
        found.append(buffer.getvalue())
    return found


def damage(data: bytes, draw: np.random.Generator, others: list[bytes]) -> bytes:
    """Return a file with bytes changed, cut out, doubled, cut off, or from another file."""
    made = bytearray(data)
    for _ in range(int(draw.integers(1, 6))):
        at = int(draw.integers(0, len(made) + 1))
        span = int(draw.integers(1, 9))
        match draw.integers(0, 7):
            case 0 if made:
                made[min(at, len(made) - 1)] = int(draw.integers(0, 256))
            case 1 if made:
                made[min(at, len(made) - 1)] ^= 1 << int(draw.integers(0, 8))
            case 2:  # lengths, sizes and counts at their ends
                made[at : at + 4] = draw.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
                )
            case 3:
                del made[at : at + span]
            case 4:
                made[at:at] = made[at : at + span]
            case 5 if draw.random() < 0.3:
                del made[at:]
            case 6 if draw.random() < 0.3:
                other = others[int(draw.integers(0, len(others)))]
                made[at:] = other[int(draw.integers(0, len(other))) :]
    return bytes(made)


def is_refused(data: bytes, needed) -> bool:
    """Whether the other decoder refuses a file too."""
    try:
        decode_pixels(data, needed)
    except BadImage:
        return True
    return False


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Decode damaged pictures; return how many were pictures still, and the peak memory (bytes)."""
    draw, whole = np.random.default_rng(seed), seeds()
    pictures = 0
    for number in range(count):
        data = damage(whole[number % len(whole)], draw, whole)
        needed = (lambda width, height: (width // 2, height // 2)) if number % 2 else None
        try:
            image, (width, height) = decode_small(data, needed)
        except BadImage as error:
            assert str(error) and "\n" not in str(error)
            assert is_refused(data, needed)
            continue
        assert image.mode == "RGB" and min(image.size) > 0 and min(width, height) > 0
        small = np.array(image) if image.width * image.height < 1 << 20 else None
        del image  # one at a time: memory is measured
        pixels, size = decode_pixels(data, needed)
        assert size == (width, height)
        assert small is None or np.array_equal(pixels, small)
        pictures += 1
    # not getrusage's ru_maxrss, which counts the process that started this one too
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return pictures, int(peak) * 1024


@pytest.mark.fault(13)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(
    "count",
    [20_000, pytest.param(1_000_000, marks=(pytest.mark.slow, pytest.mark.timeout(3600)))],
)
def test_damaged_pictures_are_pictures_or_one_kind_of_error(count, figures):
    count = figures.part(count)
    # a process of its own: its memory is measured, and warnings are as the reader has them
    code = (
        f"import sys, warnings; sys.path.insert(0, {str(Path(__file__).parent)!r});"
        "from PIL import Image; warnings.simplefilter('ignore');"
        "warnings.simplefilter('error', Image.DecompressionBombWarning);"
        f"from test_fuzzed_pictures import fuzz; print(*fuzz({count}, 1))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=3600
    )
    assert result.returncode == 0, result.stderr[-2000:]
    pictures, peak = map(int, result.stdout.split())
    assert count * 0.05 < pictures < count * 0.95  # the damage is neither too small nor too great
    assert peak < LIMIT
    figures(pictures=count, other_errors=0, most_megabytes=peak >> 20)
