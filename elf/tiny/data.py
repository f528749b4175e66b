"""The drawn pictures that the tiny models learn from and are measured on, as arrays."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from elf.world.drawing import draw
from elf.world.scene import Scene, sample_scene
from elf.world.words import CHARACTERS

Size = tuple[int, int]

SQUARE: Size = (64, 64)
PORTRAIT: Size = (48, 64)
LANDSCAPE: Size = (64, 48)
SIZES = (SQUARE, PORTRAIT, LANDSCAPE)
"""Width and height of the pictures, px."""

Pictures = UInt8[np.ndarray, "pictures height width 3"]


@dataclass(frozen=True)
class Split:
    """A family of scenes, numbered from 0.

    Args:
        seed: of the family; scenes of two families are drawn by different lots.
        leaf_crown: whether the leaf crown occurs.
        evaluation: whether the combinations are the held-out ones.
        characters: share of the scenes that show one of the named characters.
    """

    seed: int
    leaf_crown: bool
    evaluation: bool
    characters: float = 0.0

    def scene(self, number: int) -> Scene:
        """The scene with this number."""
        named = np.random.default_rng((self.seed, number, 1))
        fixed: dict[str, str] = {}
        if named.random() < self.characters:
            fixed = list(CHARACTERS.values())[named.integers(len(CHARACTERS))]
        return sample_scene(
            (self.seed, number),
            evaluation=self.evaluation,
            leaf_crown=self.leaf_crown,
            **fixed,
        )

    def scenes(self, count: int) -> list[Scene]:
        """The first `count` scenes."""
        return [self.scene(number) for number in range(count)]


BASE = Split(seed=1, leaf_crown=False, evaluation=False)
"""What the UNet and the text encoder see: never a leaf crown."""

EVERYTHING = Split(seed=2, leaf_crown=True, evaluation=False, characters=0.15)
"""What VAE, tagger, captioner and CLIP see."""

HELD_OUT = Split(seed=3, leaf_crown=True, evaluation=True, characters=0.15)
"""What tagger, captioner and CLIP are measured on."""

PROMPTS = Split(seed=4, leaf_crown=False, evaluation=True)
"""What the base is prompted with when it is measured."""

PROBE = Split(seed=5, leaf_crown=True, evaluation=False)
"""What the second classifier learns from."""


def draw_all(scenes: Sequence[Scene], size: Size = SQUARE) -> Pictures:
    """Draw scenes into one array."""
    return np.stack([np.asarray(draw(scene, *size)) for scene in scenes])


def _draw_numbers(split: Split, numbers: range, size: Size) -> Pictures:
    return draw_all([split.scene(number) for number in numbers], size)


def draw_splits(
    split: Split, count: int, workers: int = 1, cache: str | Path | None = None
) -> dict[Size, Pictures]:
    """The first `count` square pictures of a split, and a quarter as many of each other size.

    Args:
        split: the family of scenes.
        count: of square pictures.
        workers: processes that draw.
        cache: a folder that keeps the arrays for the next call.
    """
    counts = {size: count if size == SQUARE else count // 4 for size in SIZES}
    paths = {
        size: Path(cache) / f"{split.seed}-{number}-{size[0]}x{size[1]}.npy"
        for size, number in counts.items()
        if cache is not None
    }
    if paths and all(path.exists() for path in paths.values()):
        return {size: np.load(path) for size, path in paths.items()}
    jobs = [
        (split, range(start, min(start + 250, number)), size)
        for size, number in counts.items()
        for start in range(0, number, 250)
    ]
    if workers <= 1:
        parts = [_draw_numbers(*job) for job in jobs]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            parts = list(pool.map(_draw_numbers, *zip(*jobs, strict=True)))
    arrays = {
        wanted: np.concatenate(
            [part for part, (_, _, size) in zip(parts, jobs, strict=True) if size == wanted]
        )
        for wanted in SIZES
    }
    for size, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, arrays[size])
        part.replace(path)
    return arrays


def split_scenes(split: Split, arrays: dict[Size, Pictures]) -> list[Scene]:
    """The scenes of `draw_splits`'s pictures, size after size."""
    return [scene for array in arrays.values() for scene in split.scenes(len(array))]


def squashed(array: Pictures, side: int = 64) -> Pictures:
    """Scale pictures to a square, as the processors of CLIP and Florence-2 do."""
    from PIL import Image

    if array.shape[1:3] == (side, side):
        return array
    bicubic = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), bicubic)) for p in array])


def padded(array: Pictures, side: int = 64) -> Pictures:
    """Pad pictures to a square with white, as a WD tagger's preprocessing does."""
    count, height, width, _ = array.shape
    square = np.full((count, side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = array
    return square
