"""Safe picture decoding: from bytes of a stranger to RGB pixels, or one kind of error."""

import contextlib
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from elf.files import atomic_path

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
MASK = ".mask.png"  # end of the name of a mask beside a picture
MAX_PIXELS = 178_956_970  # Pillow's own bomb limit: larger pictures are refused by name
MAX_WEBP_PIXELS = 60_000_000  # its decoder takes 16 bytes a pixel, four times what others do
STRIP = 4_000_000  # pixels that are laid over a background at once

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {_TURNS[number] for number in (5, 6, 7, 8)}

_ID = re.compile(r"[0-9a-f]{16}")


class BadImage(ValueError):
    """A picture that cannot be decoded, with the reason in one line."""


def picture_id(data: bytes) -> str:
    """Return the id of a picture: the first 16 hex digits of the sha256 of its file's bytes."""
    return id_of(hashlib.sha256(data).hexdigest())


def id_of(sha256: str) -> str:
    """Return the id of a picture whose file's bytes have a sha256, in hex."""
    return sha256[:16]


def is_picture_id(text: object) -> bool:
    """Whether something is a text that can be an id; ids name files: nothing else may pass."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def picture_names(root: str | Path) -> list[str]:
    """Return the paths of all pictures under a folder, relative to it, with slashes, sorted.

    What is hidden (a name that begins with a dot) is left out, and so are the masks of pictures;
    links to folders are not followed.
    """
    return split_masks(image_names(root))[0]


def split_masks(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the names of pictures without those of masks, and the mask of each picture with one.

    ``a.mask.png`` is a mask where there is a picture ``a`` of any format, and else a picture.
    """
    found = {name[: -len(MASK)]: name for name in names if name.lower().endswith(MASK)}
    if not found:
        return names, {}
    masks = {name: found[stem] for name in names if (stem := os.path.splitext(name)[0]) in found}
    taken = set(masks.values())
    return [name for name in names if name not in taken], masks


def image_names(root: str | Path) -> list[str]:
    """Return what :func:`picture_names` does, masks included."""
    found: list[str] = []
    folders = [""]
    while folders:
        inside = folders.pop()
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{inside}{entry.name}/")
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
                    found.append(inside + entry.name)
    return sorted(found)


class LabelledPictures:
    """Where labelled pictures lie now: ``elf rename`` may have called them by their ids since.

    Attributes:
        names: Of all pictures under the folder, as :func:`picture_names` gives them.
    """

    def __init__(self, root: str | Path) -> None:
        self.names = picture_names(root) if Path(root).is_dir() else []
        self._there = set(self.names)
        self._by_stem = {Path(name).stem: name for name in self.names}

    def path(self, labelled: str, key: str) -> str:
        """Return a picture's path relative to the folder, or the one it had if it is gone.

        Args:
            labelled: The path that it had when it was labelled.
            key: Its id.
        """
        return labelled if labelled in self._there else self._by_stem.get(key, labelled)


def decode(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Decode a picture to upright RGB: EXIF orientation applied, transparency over a background.

    The first frame of an animation is taken; 16-bit pictures are scaled to 8 bits.

    Args:
        data: The bytes of a file in one of ``FORMATS``; its name plays no part.
        background: What shows through transparent pixels, RGB 0-255.

    Raises:
        BadImage: If the bytes are no whole picture of those formats, or hold too many pixels.
    """
    with filtered_warnings():
        return decode_quietly(data, background)


@contextlib.contextmanager
def filtered_warnings() -> Iterator[None]:
    """Set the filters that :func:`decode_quietly` wants, once for all threads.

    Python has one list of filters for all of them: threads that each set it and set it back leave
    it as another of them found it, and warnings of others are lost or raised.
    """
    with warnings.catch_warnings():
        set_warning_filters()
        yield


def set_warning_filters() -> None:
    """Let no picture warn: odd metadata does not change pixels, and a bomb is an error."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode_quietly(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Do what :func:`decode` does, in a thread: filters of warnings are left to the caller.

    Raises:
        BadImage: As :func:`decode` does.
    """
    return decode_small(data, None, background)[0]


def decode_small(
    data: bytes,
    needed: Callable[[int, int], tuple[int, int]] | None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture, a JPEG perhaps at 1/2, 1/4 or 1/8 of its size, as its format allows.

    Args:
        data: As for :func:`decode`.
        needed: Gives for a width and a height, px, the least ones that will do; none shrinks
            nothing. The picture may lie on its side: the two are then those of the file.
        background: As for :func:`decode`.

    Returns:
        The upright picture, and width and height of the whole upright one, px.

    Raises:
        BadImage: As :func:`decode` does.
    """
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            width, height = image.size
            most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
            if width * height > most:
                raise BadImage(f"more than {most:,} pixels: make it smaller")
            if needed is not None and image.format == "JPEG":
                image.draft(None, needed(width, height))
            image.load()
            turn = orientation(image)
            upright = image if turn is None else image.transpose(turn)
        if turn is not None:
            upright.info.pop("exif", None)  # or it would be turned again
        whole = (height, width) if turn in SIDEWAYS else (width, height)
        del image  # and what its decoder holds
        return _to_rgb(upright, background), whole
    except BadImage:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage(f"more than {MAX_PIXELS:,} pixels: make it smaller") from None
    except UnidentifiedImageError:
        raise BadImage(f"not a picture of a known format ({', '.join(FORMATS)})") from None
    except MemoryError:
        raise BadImage("not enough memory to decode it") from None
    except Exception as error:  # Pillow's plugins raise anything on damaged files
        raise BadImage(f"damaged ({type(error).__name__}: {error})") from None


def orientation(image: Image.Image) -> Image.Transpose | None:
    """Return how a picture has to be turned to stand upright, by its EXIF data."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data, of which Pillow raises anything: the pixels are whole
        return None


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # convert("RGB") would clip instead of scale: 16 bits to 8 is a division by 257
        scaled = image.convert("I").point(lambda value: value * (1 / 257))
        return scaled.convert("L").convert("RGB")
    if image.has_transparency_data:
        return _over(image, background)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Lay a picture over a background, a strip at a time: a whole canvas is twice the memory."""
    width, height = image.size
    result = Image.new("RGB", image.size)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height))).convert("RGBA")
        canvas = Image.new("RGBA", strip.size, (*background, 255))
        result.paste(Image.alpha_composite(canvas, strip).convert("RGB"), (0, top))
    return result


def write_png(path: Path, image: Image.Image, texts: Mapping[str, str] = {}) -> None:
    """Write a picture atomically, with texts that image viewers show."""
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)
