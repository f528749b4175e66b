"""From a picture to a network's input, by Pillow's antialiased filters.

Which library resizes moves an FID by up to 6 (Parmar et al. 2022, "On Aliased Resizing"), so that
all networks get their pixels from here and not from whatever backend their processors choose. The
figures (sizes, filter, mean) are those of the model's own processor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from elf.errors import ElfError

MOST_ASPECT = 4
"""A longer picture is brought to this ratio of its sides first: scaled by its shorter side, a
strip would need gigabytes."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, normalise.

    Attributes:
        shorter: The shorter side is scaled to it, px; 0 if ``size`` is given.
        size: Height and width that the picture is scaled to, its ratio not kept, px.
        crop: Height and width of what is cut from the middle, px; none cuts nothing.
        filter: Pillow's number of the filter (2 is bilinear, 3 is bicubic).
        mean: Of red, green and blue, for values of 0 to 1.
        std: The same.
    """

    shorter: int
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    filter: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, processor: Any, what: str) -> "Preprocessing":
        """Return what a transformers image processor does to a picture.

        Raises:
            ElfError: If it does something else.
        """
        facts = processor.to_dict()
        try:
            shorter, size = _sides(facts["size"])
            crop = None
            if facts["do_center_crop"]:
                _, crop = _sides(facts["crop_size"])
            mean, std = (tuple(map(float, facts[f"image_{name}"])) for name in ("mean", "std"))
            least = size or (shorter, shorter)
            fits = (
                all(facts[f"do_{step}"] for step in ("resize", "rescale", "normalize"))
                and abs(float(facts["rescale_factor"]) * 255 - 1) < 1e-6
                and len(mean) == len(std) == 3
                and min(std) > 0
                and (crop is None or (crop[0] <= least[0] and crop[1] <= least[1]))
            )
            made = cls(shorter, size, crop, int(facts["resample"]), mean, std)
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise ElfError(
                f"{what}: its processor does not resize (to shortest_edge, or height and width), "
                "crop within that and normalise three channels; take a model whose "
                "preprocessor_config.json does"
            )
        return made

    def __call__(self, picture: Image.Image) -> Float32[np.ndarray, "3 height width"]:
        """Return the network's input for an upright picture."""
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        picture = self._narrowed(picture)
        height, width = self.size or self._scaled(picture)
        picture = picture.resize((width, height), Image.Resampling(self.filter))
        if self.crop is not None:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            picture = picture.crop((left, top, left + self.crop[1], top + self.crop[0]))
        mean, std = (np.array(part, np.float32) for part in (self.mean, self.std))
        values = (np.asarray(picture, np.float32) / np.float32(255) - mean) / std  # (H, W, 3)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def _scaled(self, picture: Image.Image) -> tuple[int, int]:
        """Return height and width; the longer side is rounded down, as torchvision does."""
        shortest = min(picture.size)
        width, height = (
            self.shorter if side == shortest else int(self.shorter * side / shortest)
            for side in picture.size
        )
        return height, width

    def _narrowed(self, picture: Image.Image) -> Image.Image:
        """Return a strip no longer than so many times its width.

        If the middle is cut from it anyway, the ends go; otherwise it is squeezed.
        """
        if not self.shorter or max(picture.size) <= MOST_ASPECT * min(picture.size):
            return picture
        most = MOST_ASPECT * min(picture.size)
        width, height = (min(side, most) for side in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        box = (left, top, left + width, top + height)
        if self.crop is not None:
            return picture.crop(box)
        return picture.resize((width, height), Image.Resampling(self.filter))


def _sides(facts: Mapping[str, Any]) -> tuple[int, tuple[int, int] | None]:
    """Return a processor's shorter side, or height and width, whichever it names.

    Raises:
        ValueError: If it names neither.
        TypeError: If what it names is no number.
    """
    if shorter := facts.get("shortest_edge"):
        return int(shorter), None
    height, width = int(facts["height"]), int(facts["width"])
    if min(height, width) < 1:
        raise ValueError("no size")
    return 0, (height, width)
