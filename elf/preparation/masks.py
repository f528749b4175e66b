"""Masks: how much each part of a picture counts, from files beside it or its alpha channel.

A mask has the size of its picture and goes with it through resize, crop and flip. White counts in
full, black not at all; what is transparent in a mask is black. It is cached at the size of the
latents, each value the mean of the pixels that one latent stands for.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from elf.errors import ElfError
from elf.images import (
    FORMATS,
    BadImage,
    decode_quietly,
    image_names,
    orientation,
    picture_id,
    picture_names,
    split_masks,
)
from elf.preparation.buckets import Placement, Size
from elf.preparation.caches import mask_stamp
from elf.preparation.sets import PictureSet
from elf.preparation.sources import Location, Mask, Source, Unusable


class Masks:
    """The masks of a set's folder of pictures.

    Attributes:
        pictures: Names of the pictures, without masks that stand among them.
        beside: Of pictures with a mask beside them, its name.

    Raises:
        ElfError: If there is no such folder of masks, or it is that of the pictures.
    """

    def __init__(self, each: PictureSet, number: int) -> None:
        self._each, self._root = each, Path(each.pictures or "")
        names = image_names(self._root) if self._root.is_dir() else []
        self.pictures, self.beside = split_masks(names)
        self._folder: dict[str, str] = {}
        if each.masks:
            folder = Path(each.masks)
            if not folder.is_dir():
                raise ElfError(
                    f"data.sets[{number}].masks: no folder {folder}; give one that is there, or "
                    "leave it out"
                )
            below = os.path.relpath(folder, self._root).replace(os.sep, "/")
            if below == ".":
                raise ElfError(
                    f"data.sets[{number}].masks: {folder} is the pictures' folder; masks beside "
                    "pictures are called name.mask.png and need no such key"
                )
            for name in picture_names(folder):
                self._folder[os.path.splitext(name)[0].removesuffix(".mask")] = name
            self.pictures = [name for name in self.pictures if not name.startswith(f"{below}/")]

    def of(self, name: str, key: str) -> Mask | None:
        """Return the mask of a picture, given its name and its id."""
        found = self._folder.get(os.path.splitext(name)[0]) or self._folder.get(key)
        if self._each.masks and found:
            return Mask(found, Location(Path(self._each.masks) / found))
        if name in self.beside:
            return Mask(self.beside[name], Location(self._root / self.beside[name]))
        own = Mask(name, Location(self._root / name), alpha=True)
        return own if self._each.alpha_mask else None

    def require_use(self, sources: Sequence[Source], number: int) -> None:
        """Refuse a folder of masks of which none is a picture's.

        Raises:
            ElfError: If that is so.
        """
        if self._each.masks and not any(source.mask for source in sources):
            raise ElfError(
                f"data.sets[{number}].masks: no file in {self._each.masks} has the name of a "
                "picture (name.png or name.mask.png, or the picture's id)"
            )


@dataclass(frozen=True)
class MaskReader:
    """Reads masks.

    Attributes:
        factor: Pixels of a picture for one of its latent, along a side.
        known: (id, stamp) of masks that were made before, and need not be looked at again.
    """

    factor: int
    known: frozenset[tuple[str, str]]

    def look(self, source: Source, data: bytes, size: Size, placed: Placement) -> str | None:
        """Return the stamp of a picture's mask, after a look at it; None if it has none.

        Args:
            source: The picture.
            data: Its bytes.
            size: Its width and height in px.
            placed: How it is placed in its bucket.

        Raises:
            BadImage: If the mask cannot be read.
            Unusable: If it is of another size, or leaves nothing of the picture.
        """
        mask = source.mask
        if mask is None or (mask.alpha and not _has_alpha(data)):
            return None
        try:
            own = data if mask.alpha else mask.location.read()
            stamp = self.stamp(mask, own, placed)
            if (source.id, stamp) not in self.known:
                self.shrink(mask, own, size, placed)
        except BadImage as error:
            raise error if mask.alpha else BadImage(f"its mask {mask.path} is {error}") from None
        return stamp

    def stamp(self, mask: Mask, data: bytes, placed: Placement) -> str:
        """Return the stamp of a mask of these bytes."""
        return mask_stamp("alpha" if mask.alpha else "mask", picture_id(data), placed, self.factor)

    def shrink(
        self, mask: Mask, data: bytes, size: Size, placed: Placement
    ) -> npt.NDArray[np.uint8]:
        """Return a mask at the size of the latents, (h, w) of 0 to 255.

        Raises:
            BadImage: If it cannot be read.
            Unusable: If it is of another size, or leaves nothing of the picture.
        """
        image = decode_quietly(data, background=(0, 0, 0))
        image = _alpha(data) if mask.alpha else image.convert("L")
        if image.size != size:
            has, wants = (f"{width}×{height}" for width, height in (image.size, size))
            raise Unusable(f"its mask {mask.path} is {has} px, the picture {wants}")
        small = (placed.bucket[0] // self.factor, placed.bucket[1] // self.factor)
        array = np.asarray(image.resize(small, Image.Resampling.BOX, box=placed.box(size)))
        if not array.any():
            raise Unusable(f"its mask {mask.path} is black, so nothing of the picture is left")
        return array


def _has_alpha(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
        return image.has_transparency_data


def _alpha(data: bytes) -> Image.Image:
    """Return the alpha channel, upright, of a picture that was seen to be whole."""
    with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
        channel = image.convert("RGBA").getchannel("A")
        turn = orientation(image)
    return channel if turn is None else channel.transpose(turn)
