"""Decoding straight into an array: for JPEGs by libjpeg-turbo, for all else by Pillow.

The very pixels that Pillow gives, which uses the same library, in three fifths of its time: no
picture of four bytes a pixel is made and copied out again. Pillow reads the header, and whatever
is not quite in order (a warning is enough) is left to it: one judge decides what is damaged.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from elf.images import MAX_PIXELS, SIDEWAYS, decode_small, orientation

Pixels = UInt8[np.ndarray, "height width 3"]

_TURNS: dict[Image.Transpose, Callable[[Pixels], Pixels]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Image.Transpose.ROTATE_180: lambda pixels: pixels[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Image.Transpose.TRANSPOSE: lambda pixels: pixels.swapaxes(0, 1),
    Image.Transpose.ROTATE_270: lambda pixels: pixels[::-1].swapaxes(0, 1),
    Image.Transpose.TRANSVERSE: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    Image.Transpose.ROTATE_90: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


def decode_pixels(
    data: bytes, needed: Callable[[int, int], tuple[int, int]] | None = None
) -> tuple[Pixels, tuple[int, int]]:
    """Do what :func:`elf.images.decode_small` does, over white, and return the picture as an array.

    Raises:
        BadImage: As it does.
    """
    found = _decode_jpeg(data, needed) if data.startswith(b"\xff\xd8") else None
    if found is not None:
        return found
    image, whole = decode_small(data, needed)
    return np.array(image), whole


def _decode_jpeg(
    data: bytes, needed: Callable[[int, int], tuple[int, int]] | None
) -> tuple[Pixels, tuple[int, int]] | None:
    """Return a JPEG's upright pixels and whole size; None if Pillow is to look at it."""
    import simplejpeg

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            width, height = image.size
            if (image.format, image.mode) != ("JPEG", "RGB") or width * height > MAX_PIXELS:
                return None
            turn = orientation(image)
        least = (width, height) if needed is None else needed(width, height)
        # it takes the smallest of libjpeg's sizes that is not below the least one
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, min_width=least[0], min_height=least[1], min_factor=1, strict=True
        )
    except Exception:  # Pillow says what is wrong, if anything is
        return None
    if turn is None:
        return pixels, (width, height)
    whole = (height, width) if turn in SIDEWAYS else (width, height)
    return np.ascontiguousarray(_TURNS[turn](pixels)), whole
