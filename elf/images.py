"""Safe picture decoding: from bytes of a stranger to RGB pixels, or one kind of error."""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
MAX_PIXELS = 178_956_970  # Pillow's own bomb limit: larger pictures are refused by name


class BadImage(ValueError):
    """A picture that cannot be decoded, with the reason in one line."""


def picture_id(data: bytes) -> str:
    """Return the id of a picture: the first 16 hex digits of the sha256 of its file's bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def list_pictures(root: str | Path) -> list[Path]:
    """Return all picture files under a folder, sorted by their path relative to it."""
    root = Path(root)
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def decode(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Decode a picture to upright RGB: EXIF orientation applied, transparency over a background.

    The first frame of an animation is taken; 16-bit pictures are scaled to 8 bits.

    Args:
        data: The bytes of a file in one of ``FORMATS``; its name plays no part.
        background: What shows through transparent pixels, RGB 0-255.

    Raises:
        BadImage: If the bytes are no whole picture of those formats, or hold too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # odd metadata does not change pixels
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
                image.load()
                upright = _upright(image)
        return _to_rgb(upright, background)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage(f"more than {MAX_PIXELS:,} pixels: make it smaller") from None
    except UnidentifiedImageError:
        raise BadImage(f"not a picture of a known format ({', '.join(FORMATS)})") from None
    except MemoryError:
        raise BadImage("not enough memory to decode it") from None
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        raise BadImage(f"damaged ({type(error).__name__}: {error})") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data, of which Pillow raises anything: the pixels are whole
        return image.copy()


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # convert("RGB") would clip instead of scale: 16 bits to 8 is a division by 257
        scaled = image.convert("I").point(lambda value: value * (1 / 257))
        return scaled.convert("L").convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*background, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


Transform = Callable[[Image.Image], dict[str, NDArray[np.uint8]]]


class Item(TypedDict):
    """One picture file as a loader's worker saw it.

    ``error`` is the reason why it cannot be used, or empty; ``id`` and ``sha256`` are empty if
    not even its bytes could be read. ``width`` and ``height`` are px of the upright picture.
    """

    id: str
    path: str
    sha256: str
    width: int
    height: int
    error: str


class Batch(TypedDict):
    """Pictures and their pixels: one row for each item without an error, in the items' order."""

    items: list[Item]
    pixels: dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class PictureReader:
    """A map-style dataset of picture files that turns every failure into an item.

    It stands here, and not beside its datamodule, so that a spawned worker imports no framework.
    """

    root: str
    paths: Sequence[str]
    transform: Transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Item, dict[str, NDArray[np.uint8]]]:
        """Return a picture's item and its pixels by model; no pixels if there is an error."""
        path = self.paths[index]
        item = Item(id="", path=path, sha256="", width=0, height=0, error="")
        try:
            data = (Path(self.root) / path).read_bytes()
            item["sha256"] = hashlib.sha256(data).hexdigest()
            item["id"] = picture_id(data)
            image = decode(data)
            item["width"], item["height"] = image.size
            return item, self.transform(image)
        except BadImage as error:
            item["error"] = str(error)
        except OSError as error:
            item["error"] = f"could not be read ({error.strerror or error})"
        except MemoryError:
            item["error"] = "not enough memory for it"
        return item, {}


def collate(samples: Sequence[tuple[Item, dict[str, NDArray[np.uint8]]]]) -> Batch:
    """Return what a :class:`PictureReader` gave as one batch."""
    usable = [pixels for _, pixels in samples if pixels]
    names = usable[0] if usable else {}
    return Batch(
        items=[item for item, _ in samples],
        pixels={name: np.stack([pixels[name] for pixels in usable]) for name in names},
    )
