"""Pictures: decoded for training, looked at by `elf curate`, rendered into shards, as masks."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from oracle import Check, Finding

sys.path.append(str(Path(__file__).parents[2] / "faults"))

from test_fuzzed_pictures import is_refused
from test_fuzzed_pictures import seeds as whole_pictures

from elf.curation.facts import look_at
from elf.images import BadImage, decode_small, picture_id
from elf.jpeg import decode_pixels
from elf.preparation.buckets import Placement
from elf.preparation.masks import MaskReader
from elf.preparation.rendering import render, upright_size
from elf.preparation.sources import Location, Mask, Source, Unusable

READ_BY = ("PIL",)
LONGEST = 1 << 13
WORDS = (
    *(b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"iCCP", b"acTL", b"fcTL", b"fdAT", b"eXIf"),
    *(b"zTXt", b"iTXt", b"gAMA", b"sRGB", b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ANMF"),
    *(b"ALPH", b"EXIF", b"Exif\0\0", b"II*\0", b"MM\0*", b"JFIF\0", b"Adobe", b"ICC_PROFILE\0"),
    *(b"\xff\xd8", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xdd"),
    *(b"\xff\xe1", b"\xff\xee", b"\xff\xd9", b"GIF89a", b"NETSCAPE2.0", b"\x21\xf9\x04", b"BM"),
)
FEW = 1 << 18
"""Pixels up to which a picture goes through all that may be done with it."""


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield whole pictures of every format, and of modes that are rare."""
    yield from whole_pictures()
    yield from rare(folder)


def rare(folder: Path) -> Iterator[bytes]:
    """Yield pictures in modes that hardly anybody writes."""
    from PIL import Image

    ramp = np.arange(21 * 17).reshape(17, 21)
    for name, mode, kind, options in (
        ("deep.png", "I;16", "<u2", {}),
        ("deep-key.png", "I;16", "<u2", {"transparency": 7}),
        ("gray.png", "L", "u1", {"transparency": 7}),
        ("gray.jpg", "L", "u1", {}),
        ("bits.png", "1", "?", {}),
        ("bits.bmp", "1", "?", {}),
    ):
        plain = Image.fromarray((ramp * 3).astype("u2" if kind == "<u2" else "u1"))
        image = plain if mode == "I;16" else plain.convert(mode)
        image.save(folder / name, **options)
        yield (folder / name).read_bytes()
    color = Image.fromarray(np.stack([ramp % 256] * 3, -1).astype("u1"))
    color.convert("CMYK").save(folder / "cmyk.jpg")
    yield (folder / "cmyk.jpg").read_bytes()
    color.convert("LA").save(folder / "la.png")
    yield (folder / "la.png").read_bytes()


def target(folder: Path) -> Check:
    """Return the check of a picture."""
    path = folder / "picture"

    def check(data: bytes) -> None:
        needed = (lambda width, height: (width // 2, height // 2)) if len(data) % 2 else None
        try:
            image, size = decode_small(data, needed)
        except BadImage as error:
            if not str(error) or "\n" in str(error):
                raise Finding(f"no single line: {str(error)!r}") from error
            if not is_refused(data, needed):
                raise Finding("one decoder takes it, the other does not") from error
            return
        if image.mode != "RGB" or min(*image.size, *size) < 1:
            raise Finding(f"{image.mode} of {image.size}, whole {size}")
        if image.width * image.height > FEW:
            return
        pixels, other = decode_pixels(data, needed)
        if other != size or not np.array_equal(pixels, np.array(image)):
            raise Finding("two decoders, two pictures")
        if needed is None:
            use(data, size, path)

    return check


def use(data: bytes, size: tuple[int, int], path: Path) -> None:
    """Do with a whole picture what `elf curate` and `elf prepare` do."""
    found = upright_size(data)
    if found != size:
        raise Finding(f"its header says {found}, its pixels {size}")
    look_at(data)
    for bucket in (size, (64, 64)):
        place = Placement(bucket, bucket, (0, 0), 0.0)
        render(data, place, "png")
        path.write_bytes(data)
        own = Source(
            picture_id(data), "a", "", Location(path), mask=Mask("a", Location(path), True)
        )
        try:
            MaskReader(1, frozenset()).look(own, data, size, place)
        except Unusable:
            continue
