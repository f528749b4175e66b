"""Aspect-ratio buckets: which size each picture is trained at, and what is cropped away for it.

The buckets are those of kohya's sd-scripts, which users know by sight. Three of its traps are
closed: the sides' limits follow the resolution (a fixed maximum of 1024 px makes SDXL portraits
train at 0.7 MP), the crop is recorded where it is made, and pictures or settings that lead to an
empty bucket are refused.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from elf.errors import ElfError

Size = tuple[int, int]  # (width, height) in px


class NoBucket(ValueError):
    """A picture that no bucket can hold, with the reason in one line."""


@dataclass(frozen=True)
class Placement:
    """How a picture is brought to its bucket: resized to cover it, then cropped at the centre.

    Attributes:
        bucket: The size it is trained at, (width, height) in px.
        resized: Its size before the crop, (width, height) in px; covers the bucket.
        crop: The crop's left and top in the resized picture, in px.
        loss: The share of the resized picture's area that the crop removes, 0-1.
    """

    bucket: Size
    resized: Size
    crop: tuple[int, int]
    loss: float

    def box(self, size: Size) -> tuple[float, float, float, float]:
        """Return what the crop leaves of the picture: left, top, right, bottom in its own px.

        So it is resized and cropped in one step, and 1 × 4000 px never become 256 × 1,024,000.
        """
        scale = [new / old for new, old in zip(self.resized, size, strict=True)]
        left, top = (edge / factor for edge, factor in zip(self.crop, scale, strict=True))
        right, bottom = (
            min(old, start + side / factor)
            for old, start, side, factor in zip(size, (left, top), self.bucket, scale, strict=True)
        )
        return left, top, right, bottom


def make_buckets(
    resolution: int, step: int = 64, min_side: int | None = None, max_side: int | None = None
) -> list[Size]:
    """Return all bucket sizes of about ``resolution``² pixels, sorted by (width, height).

    For each width from min to max the height is the largest multiple of the step that keeps the
    area within resolution²; each such size stands in both orientations, and the square is added.

    Args:
        resolution: Side of the square that gives the area, in px.
        step: Sides are multiples of it, in px.
        min_side: Shortest side in px, rounded down to the step; half the resolution by default.
        max_side: Longest side in px, rounded up to the step; twice the resolution by default.

    Raises:
        ElfError: If no bucket fits these limits.
    """
    if step < 1 or resolution < step:
        raise ElfError(
            f"data.resolution {resolution} is smaller than data.bucket_step {step}: "
            "no bucket fits; make the step smaller"
        )
    shortest = resolution // 2 if min_side is None else min_side
    longest = 2 * resolution if max_side is None else max_side
    if not 0 < shortest <= resolution <= longest:
        raise ElfError(
            f"data.min_side {shortest} and data.max_side {longest} must enclose "
            f"data.resolution {resolution}"
        )
    # A minimum below one step would give buckets without any extent.
    shortest = max(step, shortest // step * step)
    longest = math.ceil(longest / step) * step
    square = resolution // step * step
    sizes = {(square, square)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, resolution**2 // width // step * step)
        if height >= shortest:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def assign(size: Size, buckets: list[Size]) -> Size:
    """Return the bucket of a picture: its own size if that is one, else the nearest w/h.

    Nearness is the linear difference of w/h, and the first in (width, height) order wins a tie:
    both as in kohya's scripts, so that the same pictures land in the same buckets.
    """
    if size in buckets:
        return size
    width, height = size
    return min(buckets, key=lambda bucket: abs(width / height - bucket[0] / bucket[1]))


def place(size: Size, buckets: list[Size]) -> Placement:
    """Return how a picture of this size (width, height in px) is brought to its bucket."""
    bucket = assign(size, buckets)
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    resized = (
        max(bucket[0], math.floor(size[0] * scale + 0.5)),
        max(bucket[1], math.floor(size[1] * scale + 0.5)),
    )
    return _crop(resized, bucket)


def place_without_upscaling(size: Size, resolution: int, step: int) -> Placement:
    """Return how a picture is brought to a bucket of its own making, never enlarged.

    As kohya's scripts do with ``bucket_no_upscale``: a picture of ``resolution``² pixels or fewer
    keeps its size, a larger one is shrunk to that area so that one of its sides is a multiple of
    the step, whichever side changes the aspect ratio less; then both sides are cropped to such
    multiples. There is no shortest and no longest side.

    Args:
        size: Width and height in px.
        resolution: Side of the square that gives the largest area, in px.
        step: Sides are multiples of it, in px.

    Raises:
        NoBucket: If a side would be shorter than a step (kohya's scripts end there, or train on
            pictures without extent).
    """
    ratio = size[0] / size[1]
    resized, shrunk = size, ""
    if size[0] * size[1] > resolution**2:
        width = math.sqrt(resolution**2 * ratio)
        height = resolution**2 / width
        shrunk = f", at the wanted area {width:.0f}×{height:.0f}"
        by_width = _whole(width, step)
        by_height = _whole(height, step)
        other = _whole(by_width / ratio, step), _whole(by_height * ratio, step)
        of_width = abs(by_width / other[0] - ratio) if other[0] else math.inf
        of_height = abs(other[1] / by_height - ratio) if by_height else math.inf
        if of_width < of_height:
            resized = (by_width, int(by_width / ratio + 0.5))
        else:
            resized = (int(by_height * ratio + 0.5), by_height)
    bucket = (resized[0] // step * step, resized[1] // step * step)
    if not min(bucket):
        raise NoBucket(
            f"{size[0]}×{size[1]} px{shrunk}: a side is shorter than data.bucket_step {step}, "
            "and data.no_upscale enlarges nothing"
        )
    return _crop(resized, bucket)


def _whole(side: float, step: int) -> int:
    """Return a side rounded to a pixel, then down to the step."""
    return int(side + 0.5) // step * step


def _crop(resized: Size, bucket: Size) -> Placement:
    crop = ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2)
    loss = 1 - math.prod(bucket) / math.prod(resized)
    return Placement(bucket, resized, crop, loss)


def lost_areas(sizes: Iterable[Size], buckets: list[Size], full: list[Size]) -> list[float]:
    """Return the share of area, 0-1, that is lost to each picture that loses a tenth or more.

    Args:
        sizes: The pictures' (width, height) in px.
        buckets: Those that are used.
        full: Those that could be, without a limit of one's own.
    """
    shares = (math.prod(assign(s, buckets)) / math.prod(assign(s, full)) for s in sizes)
    return [1 - share for share in shares if share <= 0.9]
