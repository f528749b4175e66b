"""What is to be known of a picture's content: read from its bytes once, and kept.

Facts hang on nothing but the bytes, so that they are kept by content: no threshold, name or other
picture changes them.
"""

import io
import json
import struct
from dataclasses import asdict, dataclass, field

import numpy as np
import PIL
from PIL import Image

from elf.curation.perceptual import GRAY, content, perceptual_hash, shrunk
from elf.curation.quality import Figures, measure, work_size
from elf.images import FORMATS, BadImage
from elf.jpeg import decode_pixels

VERSION = 1
"""Of what is measured and of the bytes below; part of the cache's folder name."""

THUMBNAIL = 256
"""px of the longer side."""

LOSSLESS, LOSSY_WEBP, GIF = 100, 75, 50
"""Fidelities; a JPEG's is the quality that its tables say."""

STANDARD = 3688
"""Sum of the luminance table of quality 50 (the JPEG standard, annex K)."""

_HEAD = struct.Struct("<I")


@dataclass(frozen=True)
class Facts:
    """What a whole picture's bytes say.

    Attributes:
        width: Of the upright picture, px.
        height: Of the upright picture, px.
        size: Of the file, bytes.
        format: As Pillow calls it.
        fidelity: How little was lost when it was written, 1 to 100 (nothing).
        figures: Of its quality.
        shown: Share of the pixels inside of an even border, 0 to 1.
        hash: The perceptual one, 32 bytes; empty if the picture is even.
        gray: The small gray picture, row by row.
    """

    width: int
    height: int
    size: int
    format: str
    fidelity: int
    figures: Figures
    shown: float
    hash: bytes = field(repr=False)
    gray: bytes = field(repr=False)

    @property
    def pixels(self) -> float:
        """How many pixels show something, not an even border."""
        return self.width * self.height * self.shown

    def pack(self) -> bytes:
        """Return the facts as bytes."""
        said = asdict(self) | {"hash": len(self.hash), "gray": len(self.gray)}
        head = json.dumps(said).encode()
        return _HEAD.pack(len(head)) + head + self.hash + self.gray


@dataclass(frozen=True)
class Refusal:
    """Why a file is no picture.

    Attributes:
        reason: In one line.
        decoder: The version that says so; another one may not.
    """

    reason: str
    decoder: str = PIL.__version__

    def pack(self) -> bytes:
        """Return the refusal as bytes."""
        head = json.dumps(asdict(self)).encode()
        return _HEAD.pack(len(head)) + head


def unpack(data: bytes) -> Facts | Refusal | None:
    """Return what ``pack`` made bytes of; none if it is to be found out again."""
    (length,) = _HEAD.unpack_from(data)
    at = _HEAD.size + length
    said = json.loads(data[_HEAD.size : at])
    if "reason" in said:
        refusal = Refusal(**said)
        return refusal if refusal.decoder == PIL.__version__ else None
    middle = at + said["hash"]
    return Facts(
        **said
        | {
            "figures": Figures(**said["figures"]),
            "hash": data[at:middle],
            "gray": data[middle : middle + said["gray"]],
        }
    )


def look_at(data: bytes) -> tuple[Facts, bytes]:
    """Return the facts of a picture, and a thumbnail of it as a JPEG.

    Raises:
        BadImage: If it is no whole picture.
    """
    pixels, (width, height) = decode_pixels(data, work_size)
    image = Image.fromarray(pixels)
    shade = image.convert("L")
    if shade.size != (size := work_size(width, height)):
        shade = shade.resize(size, Image.Resampling.BOX)
    gray = np.asarray(shade)
    found, inner = perceptual_hash(gray), content(gray)
    name, fidelity = _format(data)
    facts = Facts(
        width=width,
        height=height,
        size=len(data),
        format=name,
        fidelity=fidelity,
        figures=measure(pixels, gray),
        shown=round(inner.size / gray.size, 4),
        hash=b"" if found is None else found.tobytes(),
        gray=shrunk(inner, GRAY).tobytes(),
    )
    return facts, _thumbnail(image)


def _thumbnail(image: Image.Image) -> bytes:
    # the averages of whole blocks first, which is a third of the work
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=1.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _format(data: bytes) -> tuple[str, int]:
    """Return a picture's format and its fidelity."""
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            name = str(image.format)
            tables = getattr(image, "quantization", None)
    except Exception as error:  # it was decoded a moment ago
        raise BadImage(f"damaged ({type(error).__name__}: {error})") from None
    if name == "JPEG" and tables:
        return name, _quality(tables)
    lossless = name != "WEBP" or b"VP8L" in data[:64]
    return name, GIF if name == "GIF" else LOSSLESS if lossless else LOSSY_WEBP


def _quality(tables: dict[int, list[int]]) -> int:
    """Return the quality (1 to 99) with which libjpeg would have made a JPEG's first table."""
    scale = 100 * sum(tables[min(tables)]) / STANDARD
    quality = 100 - scale / 2 if scale <= 100 else 5000 / scale
    return max(1, min(99, round(quality)))
