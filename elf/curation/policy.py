"""What counts as alike, and what is proposed: the options of ``elf curate``."""

from dataclasses import dataclass, field

from elf.curation.perceptual import BITS
from elf.curation.quality import FLAGS, Thresholds
from elf.errors import ElfError

DISTANCE = 20
"""Bits of 255 that a resized, recompressed or brightened copy rarely exceeds, and two pictures
rarely fall below."""

DROPS = ("blurry", "low_information", "dark", "light")
"""Flags that propose to drop a picture, if nothing else is said."""


@dataclass(frozen=True)
class Policy:
    """What counts as alike, and what is proposed.

    Args:
        distance: Bits of 255 that the hashes of alike pictures may differ in.
        crops: Also find crops, borders and marks, by laying pictures over each other.
        flips: Also find mirrored pictures.
        similarity: Least cosine of alike embeddings, where there are any; none leaves them out.
        resolution: Of the training, px.
        drop: The flags that propose to drop a picture.
        thresholds: Where flags begin.
    """

    distance: int = DISTANCE
    crops: bool = True
    flips: bool = False
    similarity: float | None = 0.97
    resolution: int = 512
    drop: tuple[str, ...] = DROPS
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ElfError: If one of them cannot be meant.
        """
        if not 0 <= self.distance <= BITS // 2:
            raise ElfError(f"distance: {self.distance} is not between 0 and {BITS // 2} bits")
        if self.similarity is not None and not 0 < self.similarity <= 1:
            raise ElfError(f"similarity: {self.similarity} is not between 0 and 1, or null")
        if self.resolution < 1:
            raise ElfError(f"resolution: {self.resolution} is below 1 px")
        for flag in self.drop:
            if flag not in FLAGS:
                raise ElfError(f"drop: no flag {flag!r}; there are {', '.join(FLAGS)}")
