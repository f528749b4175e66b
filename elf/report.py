"""The evaluation's result as files: ``metrics.json``, ``report.md`` and ``grid.png``."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from elf.files import atomic_path, write_atomic
from elf.generation import grid
from elf.metrics import Interval

VARIANTS = ("base", "adapter")
GRID_PAIRS = 32  # in a grid of more, only the first seed of each prompt is shown


@dataclass(frozen=True)
class Row:
    """One measured question: the base's value, the adapter's, and the paired difference."""

    name: str
    base: float | None
    adapter: float | None
    difference: Interval | None
    note: str


class Plan:
    """What was generated: P prompts × S seeds, in any order."""

    def __init__(self, rows: list[tuple[str, int]]) -> None:
        self.prompts = list(dict.fromkeys(prompt for prompt, _ in rows))
        self.seeds = sorted({seed for _, seed in rows})
        self._places = [
            (self.prompts.index(prompt), self.seeds.index(seed)) for prompt, seed in rows
        ]

    def table(self, scores: np.ndarray) -> np.ndarray:
        """Arrange scores (N,) of the rows as (P, S); prompts that have no score are left out."""
        table: np.ndarray = np.full((len(self.prompts), len(self.seeds)), np.nan)
        for place, score in zip(self._places, scores, strict=True):
            table[place] = score
        kept: np.ndarray = table[~np.isnan(table).all(axis=1)]
        return kept


def markdown(rows: list[Row]) -> str:
    """Return the table of the measured rows."""
    lines = ["| metric | base | adapter | difference [95 %] | |", "|---|---|---|---|---|"]
    for row in rows:
        base, adapter = (
            "–" if value is None else f"{value:.4f}" for value in (row.base, row.adapter)
        )
        difference = "–" if row.difference is None else str(row.difference)
        lines.append(f"| {row.name} | {base} | {adapter} | {difference} | {row.note} |")
    return "\n".join(lines) + "\n"


def shown_pairs(plan: list[tuple[str, int]]) -> list[int]:
    """Return which pictures the grid shows: all, or of many the first seed of each prompt."""
    if len(plan) <= GRID_PAIRS:
        return list(range(len(plan)))
    first = {prompt: number for number, (prompt, _) in reversed(list(enumerate(plan)))}
    return sorted(first.values())


def enlarged(path: Path) -> Image.Image:
    """Read a picture, a small one at twice, three times … its size, so that it can be looked at."""
    with Image.open(path) as picture:
        times = max(1, 128 // min(picture.size))
        size = (times * picture.width, times * picture.height)
        return picture.resize(size, Image.Resampling.NEAREST)


def write(
    folder: Path,
    rows: list[Row],
    plan: list[tuple[str, int]],
    picture_path: Callable[[str, int], Path],
) -> None:
    """Write the report's files: in the grid each line shows pairs base | adapter.

    Args:
        folder: Where they go.
        rows: What was measured.
        plan: Prompt and seed of each picture.
        picture_path: Gives a picture's file by variant and its number in the plan.
    """
    write_atomic(
        folder / "metrics.json",
        json.dumps(
            {
                "rows": [asdict(row) for row in rows],
                "pictures": [{"prompt": prompt, "seed": seed} for prompt, seed in plan],
            },
            indent=2,
        ),
    )
    text = "# Evaluation\n\n" + markdown(rows)
    if plan:
        shown = shown_pairs(plan)
        with atomic_path(folder / "grid.png") as temporary:
            sheet = grid(
                [enlarged(picture_path(name, number)) for number in shown for name in VARIANTS],
                columns=min(8, 2 * len(shown)),
            )
            sheet.save(temporary, format="PNG")
        text += "\n![base and adapter, in pairs](grid.png)\n\n"
        text += "Pairs base | adapter, from left to right and top to bottom:\n\n"
        text += "".join(
            f"{i}. {plan[number][0]} (seed {plan[number][1]})\n"
            for i, number in enumerate(shown, 1)
        )
    write_atomic(folder / "report.md", text)
    print(markdown(rows))
