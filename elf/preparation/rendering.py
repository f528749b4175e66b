"""Pictures at their bucket's size, as they stand in shards."""

import contextlib
import io
import math
from pathlib import Path
from typing import Any

from PIL import Image

from elf.images import (
    FORMATS,
    MAX_WEBP_PIXELS,
    SIDEWAYS,
    BadImage,
    decode_quietly,
    orientation,
)
from elf.jpeg import decode_pixels
from elf.preparation.buckets import Placement, Size
from elf.preparation.settings import PictureFormat

# How pictures that had to be resized are stored; png and webp without loss.
_SAVE: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 4},
    "webp": {"format": "WEBP", "lossless": True},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
_UNCHANGED = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def upright_size(data: bytes) -> Size:
    """Return the width and height of an upright picture, px, by its header if that will do.

    The rest of it may still be damaged. To be called under :func:`elf.images.filtered_warnings`.

    Raises:
        BadImage: If it is no picture of a known format, or holds too many pixels.
    """
    with contextlib.suppress(Exception):  # decoding says what is wrong, if anything is
        size = header_size(io.BytesIO(data))
        if math.prod(size) <= MAX_WEBP_PIXELS:
            return size
    return decode_quietly(data).size


def header_size(file: Path | io.BytesIO) -> Size:
    """Return the width and height of an upright picture, px, of which the header alone is read.

    To be called under :func:`elf.images.filtered_warnings`.

    Raises:
        BadImage: If it is no picture of a known format.
    """
    try:
        with Image.open(file, formats=list(FORMATS)) as image:
            sideways = orientation(image) in SIDEWAYS
            return (image.height, image.width) if sideways else image.size
    except Exception as error:
        raise BadImage(f"unreadable ({type(error).__name__})") from None


def render(data: bytes, placed: Placement, picture_format: PictureFormat) -> tuple[str, bytes]:
    """Return a picture at its bucket's size as (suffix, bytes).

    A picture that has the size already is passed through byte for byte. To be called under
    :func:`elf.images.filtered_warnings`.

    Raises:
        BadImage: If it cannot be decoded.
    """
    if placed.resized == placed.bucket and (suffix := _stored_as(data, placed.bucket)):
        decode_pixels(data)  # is it whole?
        return suffix, data
    image = decode_quietly(data)
    buffer = io.BytesIO()
    cover(image, placed).save(buffer, **_SAVE[picture_format])
    return picture_format, buffer.getvalue()


def cover(image: Image.Image, placed: Placement) -> Image.Image:
    """Resize a picture to cover its bucket and crop it, in one step."""
    box = placed.box(image.size)
    return image.resize(placed.bucket, Image.Resampling.LANCZOS, box=box)


def _stored_as(data: bytes, size: Size) -> str | None:
    """Return the suffix of a picture of this size that any reader sees as ``decode`` does."""
    with contextlib.suppress(Exception):  # of its EXIF data too: then it is made anew, without
        with Image.open(io.BytesIO(data), formats=list(_UNCHANGED)) as image:
            plain = image.mode == "RGB" and not image.has_transparency_data
            upright = image.getexif().get(0x0112, 1) == 1  # orientation
            still = getattr(image, "n_frames", 1) == 1
            if plain and upright and still and image.size == size:
                return _UNCHANGED[str(image.format)]
    return None
