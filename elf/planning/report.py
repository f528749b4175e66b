"""A plan as text: one topic a line, its figures below each other."""

from collections.abc import Sequence

from elf.memory import GIB
from elf.planning.memory import Memory
from elf.planning.pictures import Pictures

_ROWS = 16  # buckets that are shown
_LABEL = 11


def topic(label: str, *lines: str) -> list[str]:
    """Return lines with a label before the first, and as much space before the others."""
    names = [label, *[""] * (len(lines) - 1)]
    return [f"{n:<{_LABEL}}{line}".rstrip() for n, line in zip(names, lines, strict=True)]


def gib(size: float) -> str:
    """Return bytes as GiB, small ones as MiB."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.1f} MiB"


def duration(seconds: float) -> str:
    """Return a time in the units that suit it."""
    if seconds < 1:
        return f"{1e3 * seconds:.1f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def picture_lines(pictures: Pictures, whence: str, batch: int, drop: bool) -> list[str]:
    """Return what there is to train on, with a row for each bucket.

    Args:
        pictures: What there is.
        whence: Where that is known from.
        batch: Pictures of a batch over all devices.
        drop: Whether batches that are not full are left out.
    """
    first = f"{pictures.trained:,} to train on, {pictures.held_out:,} held out ({whence})"
    left_out = [f"{len(pictures.dropped):,} left out"] * bool(pictures.dropped)
    lines = topic("pictures", first, *left_out)
    rows = [("size", "pictures", "batches", "last batch")]
    ordered = sorted(pictures.samples.items(), key=lambda each: (-each[1], each[0]))
    for (width, height), samples in ordered[:_ROWS]:
        rest = samples % batch
        last = "full"
        if rest:
            last = f"{rest} dropped" if drop else f"{batch - rest} of {batch} filled up"
        count = pictures.buckets[width, height]
        shown = f"{count:,}" if count == samples else f"{count:,} × {samples / count:.3g}"
        number = samples // batch if drop else -(-samples // batch)
        rows.append((f"{width}×{height}", shown, f"{number:,}", last))
    lines += topic("buckets", *aligned(rows, left=(0, 3)))
    if len(ordered) > _ROWS:
        more = sum(samples for _, samples in ordered[_ROWS:])
        lines += topic("", f"and {len(ordered) - _ROWS} more with {more:,} samples")
    lines += topic("crop loss", f"{pictures.crop_loss:.1%} of the pictures' area on average")
    return lines


def memory_lines(memory: Memory, optimizer: str, averaged: bool) -> list[str]:
    """Return what the memory goes into."""
    average = ", average" if averaged else ""
    rows = [
        ("frozen weights", gib(memory.frozen)),
        (f"adapter{average}, gradients, {optimizer}", gib(memory.trained)),
        ("activations", gib(memory.activations)),
        ("workspaces, gaps", gib(memory.reserve)),
        ("reserved at the peak", gib(memory.total)),
    ]
    return topic("memory", *aligned(rows, left=(0,)))


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """Return rows with their columns below each other, those not ``left`` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
