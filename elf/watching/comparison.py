"""The validation figures of several checkpoints: as a table, as a CSV file, as a chart."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elf.planning.report import aligned
from elf.watching.chart import PALETTE, Chart, Series

COLUMNS = {"val_trained/ratio": "trained", "val/gap": "gap", "val_unrelated/ratio": "unrelated"}
"""Figures that a table shows if there are any, and their headings."""


@dataclass(frozen=True)
class Measured:
    """A checkpoint's figures.

    Attributes:
        step: Optimizer steps that it was trained.
        name: What it is called in the table.
        path: Its file; empty if there is none.
        figures: By their names as metrics: ``val/loss`` and others.
    """

    step: int
    name: str
    path: str
    figures: Mapping[str, float]


def lowest(rows: Sequence[Measured]) -> Measured:
    """Return the first of those with the smallest ``val/loss``."""
    return min(rows, key=lambda row: (math.isnan(row.figures["val/loss"]), row.figures["val/loss"]))


def table(rows: Sequence[Measured]) -> list[str]:
    """Return lines: a heading and one for each checkpoint; of several the lowest is marked."""
    shown = [key for key in COLUMNS if any(key in row.figures for row in rows)]
    head = ("step", "checkpoint", "val/loss", "val/ratio", "95 % interval")
    lines = [(*head, *(COLUMNS[key] for key in shown), "")]
    for row in rows:
        loss, ratio = row.figures["val/loss"], row.figures["val/ratio"]
        ends = [row.figures["val/ratio_low"], row.figures["val/ratio_high"]]
        interval = (
            " to ".join(f"{end:.4f}" for end in ends) if all(map(math.isfinite, ends)) else ""
        )
        plain = (f"{row.step:,}", row.name, f"{loss:.5f}", f"{ratio:.4f}", interval)
        more = (_short(key, row.figures.get(key)) for key in shown)
        best = len(rows) > 1 and row is lowest(rows)
        lines.append((*plain, *more, "lowest" if best else ""))
    return [line.rstrip() for line in aligned(lines, left=(1, len(lines[0]) - 1))]


def csv_text(rows: Sequence[Measured]) -> str:
    """Return all figures, a row for each checkpoint, with as many digits as ``metrics.csv``."""
    names = dict.fromkeys(key for row in rows for key in row.figures)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "checkpoint", *names])
    for row in rows:
        values = (row.figures.get(key) for key in names)
        plain = ("" if value is None else f"{value:.9g}" for value in values)
        writer.writerow([row.step, row.path, *plain])
    return text.getvalue()


def chart(rows: Sequence[Measured]) -> Chart:
    """Return the ratios to the base over the steps, with the lowest validation loss ringed.

    The loss itself has the same curve: the base's is one number for all checkpoints.
    """

    def points(key: str) -> list[tuple[float, float]]:
        return [(row.step, row.figures[key]) for row in rows if key in row.figures]

    band = [
        (float(row.step), row.figures["val/ratio_low"], row.figures["val/ratio_high"])
        for row in rows
    ]
    best = lowest(rows)
    ring = (best.step, best.figures["val/ratio"], f"lowest: step {best.step:,}")
    steps = [row.step for row in rows]
    return Chart(
        "Validation loss / the base's",
        [
            Series("held out, 95 %", points("val/ratio"), PALETTE[1], dots=True, band=band),
            Series("trained on", points("val_trained/ratio"), PALETTE[2], dots=True),
            Series("unrelated", points("val_unrelated/ratio"), PALETTE[3], dots=True),
        ],
        level=1.0,
        ring=ring if len(rows) > 1 else None,
        # the last few of a long run would lie on one another
        whole=len(rows) < 2 or min(steps) < max(steps) / 2,
    )


def _short(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:+.4f}" if key == "val/gap" else f"{value:.4f}"
