"""From a picture to the pixels that each model wants: run by the loader's threads.

Every preprocessing is a small object that needs no weights, and gives uint8: a quarter of
float32's bytes on the way to a GPU. Casts and normalisation follow at the model.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from elf.images import decode_small
from elf.jpeg import decode_pixels
from elf.taggers.bicubic import bicubic, resize

Pixels = UInt8[np.ndarray, "height width 3"]
Decode = Literal["exact", "fast"]

VERSION = {"exact": 1, "fast": 2}
"""Written into the manifest; changes whenever a model's pixels change."""

MAX_SQUARE = 8192
"""Beyond this side (px) the square is not built: a 1 px wide strip would need gigabytes."""

LEAST = {2: 2.25, 4: 4.0, 8: 4.0}
"""A JPEG that is decoded at 1/2, 1/4 or 1/8 must keep so many px for one of the model's input: at
fewer, more than 1 in 200 kept tags differ from the whole picture's (benchmarks/labelling.py)."""

REUSED = 3 * 2560 * 2560
"""Bytes up to which each thread keeps its square: new memory costs more than the copy into it."""

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class WDPreprocess:
    """The recipe of the WD taggers' authors: a white square around the picture, then bicubic.

    Source: the demo of SmilingWolf's taggers, ``offset = (max(w, h) - w) // 2``.
    """

    size: int

    def shrinks_by(self, width: int, height: int) -> int:
        """Return the fraction (1, 2, 4, 8) at which a JPEG of that size may be decoded.

        The square's border must stand where it stands around the whole picture.
        """
        longest = max(width, height)
        offsets = [(longest - side) // 2 for side in (width, height) if side != longest]
        return _fraction(longest / self.size, [width, height, *offsets])

    def nearly(self, pixels: Pixels) -> Pixels:
        """Return nearly what the exact recipe makes of a picture, in less time."""
        height, width, _ = pixels.shape
        side = max(height, width)
        if side > MAX_SQUARE or side <= self.size:
            return self(Image.fromarray(pixels))
        if height != width:
            left, top = (side - width) // 2, (side - height) // 2
            square = _square(side)
            square.fill(WHITE[0])
            square[top : top + height, left : left + width] = pixels
            pixels = square
        return bicubic(pixels, self.size, self.size)

    def __call__(self, image: Image.Image) -> Pixels:
        """Return an RGB picture as ``(size, size, 3)``, RGB."""
        side = max(image.size)
        if side > MAX_SQUARE:
            scale = self.size / side
            image = image.resize(
                (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
                Image.Resampling.BICUBIC,
            )
            side = self.size
        left, top = (side - image.width) // 2, (side - image.height) // 2
        padded = image
        if image.size != (side, side):
            padded = Image.new("RGB", (side, side), WHITE)
            padded.paste(image, (left, top))
        if side != self.size:
            padded = resize(padded, self.size, self.size)
        return np.asarray(padded)


@dataclass(frozen=True)
class FlorencePreprocess:
    """Florence-2's resize: to its own size, the aspect ratio not kept.

    Args:
        height: Of the model's input, px.
        width: Of the model's input, px.
        resample: Pillow's number of the filter (3 is bicubic).
    """

    height: int
    width: int
    resample: int = 3

    def shrinks_by(self, width: int, height: int) -> int:
        """Return the fraction (1, 2, 4, 8) at which a JPEG of that size may be decoded."""
        side = max(self.width, self.height)  # the file may lie on its side
        return _fraction(min(width, height) / side, [width, height])

    def nearly(self, pixels: Pixels) -> Pixels:
        """Return nearly what the exact recipe makes of a picture, in less time."""
        if self.resample != Image.Resampling.BICUBIC:
            return self(Image.fromarray(pixels))
        return bicubic(pixels, self.height, self.width)

    def __call__(self, image: Image.Image) -> Pixels:
        """Return an RGB picture as ``(height, width, 3)``, RGB."""
        if self.resample == Image.Resampling.BICUBIC:
            return np.asarray(resize(image, self.height, self.width))
        filter_ = Image.Resampling(self.resample)
        return np.asarray(image.resize((self.width, self.height), filter_))


def _fraction(ratio: float, lengths: Sequence[int]) -> int:
    """Return the largest of 8, 4, 2, 1 that leaves enough px and divides all lengths.

    Args:
        ratio: The picture's px for one of the model's input.
        lengths: What must stay on whole px.
    """
    fitting = (
        factor
        for factor in (8, 4, 2)
        if ratio >= factor * LEAST[factor] and not any(length % factor for length in lengths)
    )
    return next(fitting, 1)


_squares = threading.local()


def _square(side: int) -> Pixels:
    """Return a square to be filled, the same memory for every picture of a thread."""
    size = 3 * side * side
    if size > REUSED:
        return np.empty((side, side, 3), np.uint8)
    memory = getattr(_squares, "memory", None)
    if memory is None or len(memory) < size:
        memory = _squares.memory = np.empty(size, np.uint8)
    return memory[:size].reshape(side, side, 3)


@dataclass(frozen=True)
class Preprocess:
    """All models' preprocessing of one decoded picture.

    Args:
        parts: By the models' names.
        decode: ``exact`` gives the very pixels of the models' own recipes; ``fast`` decodes large
            JPEGs at a fraction and resizes by :mod:`elf.taggers.bicubic`.
    """

    parts: Mapping[str, WDPreprocess | FlorencePreprocess]
    decode: Decode = "exact"

    @property
    def version(self) -> str:
        """What stands for these pixels in manifest and cache."""
        return f"{self.decode}{VERSION[self.decode]}"

    def needed(self, names: Sequence[str]) -> Callable[[int, int], tuple[int, int]] | None:
        """Return the size that a JPEG may be decoded at, as a function of its own."""
        if self.decode == "exact":
            return None

        def smallest(width: int, height: int) -> tuple[int, int]:
            by = min(self.parts[name].shrinks_by(width, height) for name in names)
            return width // by, height // by

        return smallest

    def open(self, data: bytes, names: Sequence[str]) -> tuple[dict[str, Pixels], tuple[int, int]]:
        """Return the pixels of a picture file for some models, and its upright size (px).

        Raises:
            BadImage: If it is no whole picture.
        """
        if self.decode == "exact":
            image, size = decode_small(data, None)
            return self(image, names), size
        pixels, size = decode_pixels(data, self.needed(names))
        return self._nearly(pixels, names), size

    def __call__(self, image: Image.Image, names: Sequence[str] | None = None) -> dict[str, Pixels]:
        """Return the pixels of a decoded picture for models by their names, by default for all."""
        wanted = list(self.parts if names is None else names)
        if self.decode == "exact":
            return {name: self.parts[name](image) for name in wanted}
        return self._nearly(np.array(image), wanted)

    def _nearly(self, pixels: Pixels, names: Sequence[str]) -> dict[str, Pixels]:
        return {name: self.parts[name].nearly(pixels) for name in names}
