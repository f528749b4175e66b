"""Figures of a picture, and the flags that follow from them: what cleanvision made customary.

Figures are measured on the upright picture over white, made as large as 512 × 512 at the most:
what cannot be seen there does not reach training either. They do not depend on thresholds, so
that they can be kept. Blur is Crete's: how little of the variation between neighbours is lost when
the picture is blurred once more, but in its sharpest parts, so that a soft background does not
count, and without variation of 2 gray levels, which rounding makes. Source: Crete et al., The Blur
Effect (2007). Noise hides blur.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from scipy.ndimage import uniform_filter1d

Pixels = UInt8[np.ndarray, "height width 3"]
Gray = UInt8[np.ndarray, "height width"]
Lines = Float32[np.ndarray, "lines width"]

WORK = 512 * 512
"""Pixels at which figures are measured; smaller pictures are not enlarged."""

REBLUR, ROUNDING, TILES, SHARPEST = 9, 2.0, 8, 0.05
"""px and gray levels; tiles a side, and the share of them that makes a picture's sharpness."""

DETAIL = 0.25
"""Gray levels a px of variation without which a tile says nothing."""


@dataclass(frozen=True)
class Thresholds:
    """Where flags begin.

    Args:
        blurry: Blur of the sharpest parts, 0 to 1 (all of it).
        low_information: Entropy of the gray levels, bits.
        dark: What 99 of 100 pixels are darker than, 0 to 1.
        light: What 95 of 100 pixels are lighter than, 0 to 1.
        grayscale: Spread of the colour channels that 99 of 100 pixels do not exceed, 0 to 1.
        odd_aspect_ratio: The shorter side over the longer one.
        odd_size: How far from the quartiles of all sizes, in distances between them.
    """

    blurry: float = 0.7
    low_information: float = 1.5
    dark: float = 0.32
    light: float = 0.95
    grayscale: float = 0.025
    odd_aspect_ratio: float = 0.35
    odd_size: float = 3.0


@dataclass(frozen=True)
class Figures:
    """What was measured of a picture.

    Attributes:
        blur: Of the sharpest parts, 0 to 1.
        entropy: Of the gray levels, bits.
        brightest: The 99th percentile of the gray levels, 0 to 1.
        darkest: The 5th percentile of the gray levels, 0 to 1.
        colour: The 99th percentile of the spread between the channels, 0 to 1.
    """

    blur: float
    entropy: float
    brightest: float
    darkest: float
    colour: float


FLAGS = (
    "blurry",
    "low_information",
    "dark",
    "light",
    "grayscale",
    "odd_aspect_ratio",
    "odd_size",
    "small",
)
"""In the order in which they are shown."""


def work_size(width: int, height: int) -> tuple[int, int]:
    """Return the size (px) at which a picture's figures are measured."""
    scale = min(1.0, (WORK / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def measure(pixels: Pixels, gray: Gray) -> Figures:
    """Measure a picture, in colour at any size and in gray at its work size."""
    levels = np.array(Image.fromarray(gray).histogram()) / gray.size
    reached = np.cumsum(levels)
    shares = levels[levels > 0]
    some = pixels[:: max(1, len(pixels) // 128), :: max(1, pixels.shape[1] // 128)]
    red, green, blue = np.ascontiguousarray(some.reshape(-1, 3).T)
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    most = int(0.99 * len(spread))
    return Figures(
        blur=round(blur(gray), 4),
        entropy=round(float(-(shares * np.log2(shares)).sum()), 4) + 0.0,
        brightest=round(int(np.searchsorted(reached, 0.99)) / 255, 4),
        darkest=round(int(np.searchsorted(reached, 0.05)) / 255, 4),
        colour=round(int(np.partition(spread, most)[most]) / 255, 4),
    )


def blur(gray: Gray) -> float:
    """Return how blurred a picture's sharpest parts are: 0 not at all, 1 without any edge."""
    varies = lost = np.zeros((1, 1))
    for turned in (False, True):  # one row in four, and one column
        lines = np.ascontiguousarray((gray.T if turned else gray)[::4], np.float32)
        steps = np.maximum(_steps(lines) - np.float32(ROUNDING), 0)
        again = uniform_filter1d(lines, REBLUR, axis=1, mode="reflect")
        left = np.maximum(steps - _steps(again), 0)
        varies = varies + (_tiles(steps).T if turned else _tiles(steps))
        lost = lost + (_tiles(left).T if turned else _tiles(left))
    seen = varies > DETAIL
    if not seen.any():
        return 1.0
    blurs = np.sort(1 - lost[seen] / varies[seen])
    return float(blurs[int(SHARPEST * len(blurs))])


def _steps(lines: Lines) -> Lines:
    """Return how far each pixel is from the next one in its line; 0 at the end."""
    steps = np.zeros_like(lines)
    np.subtract(lines[:, 1:], lines[:, :-1], out=steps[:, :-1])
    np.abs(steps, out=steps)
    return steps


def _tiles(values: Lines) -> np.ndarray:
    """Return the means over tiles of a picture."""
    # of fewer lines than tiles, some stand in two
    edges = [np.arange(TILES) * side // TILES for side in values.shape]
    sums: np.ndarray = np.add.reduceat(np.add.reduceat(values, edges[0], 0), edges[1], 1)
    sides = [np.diff(starts, append=side) for starts, side in zip(edges, values.shape, strict=True)]
    means: np.ndarray = sums / np.maximum(1, np.outer(*sides))
    return means


def flags(
    figures: Figures,
    size: tuple[int, int],
    usual: tuple[float, float],
    resolution: int,
    thresholds: Thresholds,
) -> list[str]:
    """Return a picture's flags.

    Args:
        figures: What was measured.
        size: Width and height, px.
        usual: What :func:`usual_sizes` gives for all pictures.
        resolution: Of the training, px: one of fewer than its square would be enlarged.
        thresholds: Where flags begin.
    """
    side = (size[0] * size[1]) ** 0.5
    found = {
        "blurry": figures.blur >= thresholds.blurry,
        "low_information": figures.entropy < thresholds.low_information,
        "dark": figures.brightest < thresholds.dark,
        "light": figures.darkest > thresholds.light,
        "grayscale": figures.colour <= thresholds.grayscale,
        "odd_aspect_ratio": min(size) / max(size) < thresholds.odd_aspect_ratio,
        "odd_size": not usual[0] <= side <= usual[1],
        "small": side < resolution,
    }
    return [flag for flag in FLAGS if found[flag]]


def usual_sizes(sizes: Sequence[tuple[int, int]], distances: float) -> tuple[float, float]:
    """Return the least and the largest usual side (px, root of the pixels).

    Tukey's fences around the quartiles of the logarithm, and never less than a factor of 2: where
    all pictures are of one size, one that is a little larger is not odd.
    """
    if not sizes:
        return 0.0, np.inf
    sides = np.log([width * height for width, height in sizes]) / 2
    low, high = np.quantile(sides, [0.25, 0.75])
    reach = max(distances * (high - low), np.log(2.0))
    return float(np.exp(low - reach)) * (1 - 1e-9), float(np.exp(high + reach)) * (1 + 1e-9)
