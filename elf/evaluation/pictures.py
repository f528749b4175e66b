"""Pictures inside of the page: as large as its size allows, each stored once.

Storing thumbnails and large ones would hold every picture twice. One size serves as both: the
browser shrinks it for the overview. How large it is follows from how many there are.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from elf.errors import ElfError
from elf.images import BadImage, decode

BUDGET = 14_000_000
"""Bytes that all pictures may take in the page, written as base64; the rest is text."""

SIDES = (1024, 896, 768, 640, 512, 448, 384, 320, 256, 192, 128, 96)
"""px of the longer side that are tried, until the pictures fit."""

QUALITY = 80  # of WebP
PIXEL_ART = 160  # px; smaller pictures keep each pixel, and are shown with pixels as squares
SAMPLE = 12  # pictures whose size says that of all


@dataclass(frozen=True)
class Embedded:
    """A picture as the page holds it.

    Attributes:
        source: A data URI.
        width: px.
        height: px.
    """

    source: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether its pixels are to be shown as squares."""
        return max(self.width, self.height) <= PIXEL_ART and "image/png" in self.source[:20]


@dataclass(frozen=True)
class Gap:
    """In place of a picture that cannot be shown, and why."""

    why: str


def embed(folder: Path, files: Sequence[str], budget: int = BUDGET) -> dict[str, Embedded | Gap]:
    """Return each file's picture for the page, all together within a budget, if it can be met.

    A picture that is missing or damaged leaves a gap: the others are still worth looking at.

    Args:
        folder: What the files' names are relative to.
        files: The pictures.
        budget: Bytes of base64 for all of them; below `SIDES`' last one nothing is shrunk further.

    Raises:
        ElfError: If not one of them can be shown.
    """
    names = list(dict.fromkeys(files))
    found: dict[str, Embedded | Gap] = {}
    for side in SIDES[_first_side(folder, names, budget) :]:
        found, total = {}, 0
        for name in names:
            found[name] = each = _embedded(folder / name, side)
            total += len(each.source) if isinstance(each, Embedded) else 0
            if total > budget and side != SIDES[-1]:
                break
        else:
            break
    gaps = [each for each in found.values() if isinstance(each, Gap)]
    if names and len(gaps) == len(names):
        raise ElfError(
            f"{folder / names[0]}: {gaps[0].why}, and so are all {len(names)} pictures that"
            " metrics.json names; move them back beside it, or run `elf test` again"
        )
    return found


def _first_side(folder: Path, names: Sequence[str], budget: int) -> int:
    """Return the place of the largest side at which some of the pictures say that all fit."""
    some = names[:: max(1, -(-len(names) // SAMPLE))]
    decoded = [_Decoded.of(folder / name, SIDES[0]) for name in some]
    whole = [each for each in decoded if isinstance(each, _Decoded)]
    share = budget * len(whole) / max(1, len(names))
    for place, side in enumerate(SIDES):
        if sum(len(each.written(side).source) for each in whole) <= share:
            return place
    return len(SIDES) - 1


def _embedded(path: Path, side: int) -> Embedded | Gap:
    decoded = _Decoded.of(path, side)
    return decoded if isinstance(decoded, Gap) else decoded.written(side)


@dataclass(frozen=True)
class _Decoded:
    """A picture, and the longer side that its file has, px."""

    picture: Image.Image
    longer: int

    @classmethod
    def of(cls, path: Path, side: int) -> "_Decoded | Gap":
        """Return a picture, shrunk to a side: twelve whole photographs would fill the memory."""
        try:
            whole = decode(path.read_bytes())
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            return Gap("missing" if missing else f"unreadable ({error.strerror or error})")
        except BadImage as error:
            return Gap(str(error))
        return cls(_shrunk(whole, side), max(whole.size))

    def written(self, side: int) -> Embedded:
        """Return it as the page holds it, with its longer side so long at most."""
        if self.longer <= min(side, PIXEL_ART):
            return _uri(self.picture, "PNG", optimize=True)
        return _uri(_shrunk(self.picture, side), "WEBP", quality=QUALITY, method=4)


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    longer = max(picture.size)
    if longer <= side:
        return picture
    width, height = (max(1, round(length * side / longer)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _uri(picture: Image.Image, kind: str, **options: int) -> Embedded:
    file = io.BytesIO()
    Image.Image.save(picture, file, kind, **options)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return Embedded(f"data:image/{kind.lower()};base64,{text}", *picture.size)
