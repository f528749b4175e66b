"""A contact sheet: sampled pictures with what was asked for, in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from elf.watching.fonts import font, wrap

PAPER, INK, PALE = "#ffffff", "#1b1b1f", "#6f6f78"
LEAST = 192
"""Shortest side of a shown picture, px: smaller ones are enlarged by a whole factor."""
COLUMNS = 4
CAPTION_LINES = 3


@dataclass(frozen=True)
class Line:
    """What was asked for, and the pictures of it, one for each column.

    Attributes:
        caption: The prompt.
        note: What else decides it: seed, negative prompt.
        pictures: They.
    """

    caption: str
    note: str
    pictures: Sequence[Image.Image]


def contact_sheet(
    lines: Sequence[Line], heads: Sequence[str], title: str, note: str
) -> Image.Image:
    """Return a sheet of all lines, each caption under its pictures.

    Args:
        lines: One for each prompt; with one picture each they stand side by side.
        heads: Names of the columns, if there are several pictures a line.
        title: At the top, at the left.
        note: At the top, at the right.
    """
    shown = [[enlarged(picture) for picture in line.pictures] for line in lines]
    cell = max(picture.width for row in shown for picture in row)
    gap = max(12, cell // 24)
    size = max(13, cell // 24)
    per_line = len(heads)
    side_by_side = 1 if per_line > 1 else min(len(lines), COLUMNS)
    columns = per_line * side_by_side
    text_width = per_line * cell + (per_line - 1) * gap
    plain, small = font(size), font(max(11, size * 4 // 5))
    captions = [wrap(line.caption or "(empty prompt)", plain, text_width, CAPTION_LINES)
                for line in lines]  # fmt: skip
    notes = [wrap(line.note, small, text_width, 1) for line in lines]
    line_height = round(size * 1.35)
    bands = [range(start, min(start + side_by_side, len(lines)))
             for start in range(0, len(lines), side_by_side)]  # fmt: skip
    heights = [
        max(picture.height for number in band for picture in shown[number])
        + max(len(captions[n]) + len(notes[n]) for n in band) * line_height
        + gap // 2
        for band in bands
    ]
    top = gap + round(size * 1.8) + (line_height if per_line > 1 else 0)
    sheet = Image.new(
        "RGB",
        (2 * gap + columns * cell + (columns - 1) * gap, top + sum(heights) + gap * len(bands)),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    headline = font(round(size * 1.15), bold=True)
    room = sheet.width - 3 * gap - plain.getlength(note)
    name = wrap(title, headline, max(room, 1), 1)
    draw.text((gap, gap), name[0] if name else "", INK, headline)
    draw.text((sheet.width - gap, gap), note, PALE, plain, anchor="ra")
    if per_line > 1:
        for column, head in enumerate(heads):
            draw.text((gap + column * (cell + gap), top - line_height), head, PALE, small)
    y = top
    for band, height in zip(bands, heights, strict=True):
        tallest = max(picture.height for number in band for picture in shown[number])
        for place, number in enumerate(band):
            left = gap + place * (cell + gap)
            for column, picture in enumerate(shown[number]):
                sheet.paste(picture, (left + column * (cell + gap), y))
            text_y = y + tallest + gap // 2
            for text in captions[number]:
                draw.text((left, text_y), text, INK, plain)
                text_y += line_height
            for text in notes[number]:
                draw.text((left, text_y), text, PALE, small)
        y += height + gap
    return sheet


def enlarged(picture: Image.Image) -> Image.Image:
    """Return a picture, a small one at twice, three times … its size, its pixels as squares."""
    times = -(-LEAST // min(picture.size))
    if times == 1:
        return picture
    size = (times * picture.width, times * picture.height)
    return picture.resize(size, Image.Resampling.NEAREST)
