"""Safe picture decoding: from bytes of a stranger to RGB pixels, or one kind of error."""

import hashlib
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

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
                upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright, background)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage(f"more than {MAX_PIXELS:,} pixels: make it smaller") from None
    except Image.UnidentifiedImageError:
        raise BadImage(f"not a picture of a known format ({', '.join(FORMATS)})") from None
    except MemoryError:
        raise BadImage("not enough memory to decode it") from None
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        raise BadImage(f"damaged ({type(error).__name__}: {error})") from None


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
