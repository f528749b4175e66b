"""The first look at an evaluation: base and adapter in pairs, on one sheet."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from elf.images import write_png

PAIRS = 32  # on a sheet of more, only the first seed of each prompt is shown, and no more of these


def shown_pairs(plan: list[tuple[str, int]]) -> list[int]:
    """Return which pictures a sheet shows: all, or of many the first seed of each prompt."""
    if len(plan) <= PAIRS:
        return list(range(len(plan)))
    first = {prompt: number for number, (prompt, _) in reversed(list(enumerate(plan)))}
    return sorted(first.values())[:PAIRS]


def enlarged(picture: Image.Image) -> Image.Image:
    """Return a picture, a small one at twice, three times … its size, so that it can be seen."""
    times = max(1, 128 // min(picture.size))
    size = (times * picture.width, times * picture.height)
    return picture.resize(size, Image.Resampling.NEAREST)


def write_sheet(
    path: Path, plan: list[tuple[str, int]], pair: Callable[[int], list[Image.Image]]
) -> None:
    """Write pairs base | adapter, from left to right and top to bottom, in the plan's order.

    Args:
        path: The PNG.
        plan: Prompt and seed of each picture.
        pair: Returns base's and adapter's picture by their number in the plan.
    """
    shown = shown_pairs(plan)
    pictures = [enlarged(picture) for number in shown for picture in pair(number)]
    write_png(path, grid(pictures, columns=min(8, 2 * len(shown))))


def grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Paste pictures into rows of a number of columns, on white, 2 px apart."""
    width = max(picture.width for picture in pictures) + 2
    height = max(picture.height for picture in pictures) + 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width - 2, rows * height - 2), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, ((index % columns) * width, (index // columns) * height))
    return sheet
