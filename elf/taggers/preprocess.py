"""From a picture to the pixels that each model wants: run in the loader's workers.

Every preprocessing is a small picklable object that needs no weights, and gives uint8: a
quarter of float32's bytes between processes. Casts and normalisation follow at the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "height width 3"]

WD_VERSION = "wd-1"
"""Written into the manifest; changes whenever the tagger's pixels change."""

MAX_SQUARE = 8192
"""Beyond this side (px) the square is not built: a 1 px wide strip would need gigabytes."""


@dataclass(frozen=True)
class WDPreprocess:
    """The recipe of the WD taggers' authors: a white square around the picture, then bicubic.

    Source: the demo of SmilingWolf's taggers, ``offset = (max(w, h) - w) // 2``.
    """

    size: int

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
        square = image
        if image.size != (side, side):
            square = Image.new("RGB", (side, side), (255, 255, 255))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        if side != self.size:
            square = square.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(square)


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

    def __call__(self, image: Image.Image) -> Pixels:
        """Return an RGB picture as ``(height, width, 3)``, RGB."""
        filter_ = Image.Resampling(self.resample)
        return np.asarray(image.resize((self.width, self.height), filter_))


@dataclass(frozen=True)
class Preprocess:
    """All models' preprocessing of one decoded picture."""

    parts: Mapping[str, WDPreprocess | FlorencePreprocess]

    def __call__(self, image: Image.Image) -> dict[str, Pixels]:
        """Return the pixels for each model by its name."""
        return {name: part(image) for name, part in self.parts.items()}
