"""The charts of a run, from its CSV files: ``plots/*.png``."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from elf.images import write_png
from elf.watching.chart import PALETTE, Chart, Series, draw

Columns = Mapping[str, Sequence[tuple[float, float]]]

# from violet (little noise) to yellow (much): the order of the strata can be seen
RAMP = ("#440154", "#46337e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#9fda3a", "#e3c516")


def read_columns(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the (step, value) pairs of each column of ``metrics.csv`` and ``speed.csv``."""
    columns: dict[str, list[tuple[float, float]]] = {}
    for name in ("metrics.csv", "speed.csv"):
        path = folder / name
        if not path.is_file():
            continue
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    if value and key and key != "step":
                        columns.setdefault(key, []).append((float(row["step"]), float(value)))
    return columns


def smoothed(points: Sequence[tuple[float, float]], span: int) -> list[tuple[float, float]]:
    """Return an exponential moving average over about so many points, without a biased start.

    The bias of the zero that the average begins with is divided out, as Adam's is (Kingma & Ba
    2015, algorithm 1).
    """
    decay = 1 - 2 / (span + 1)
    average = weight = 0.0
    result = []
    for x, y in points:
        if math.isfinite(y):
            average = decay * average + (1 - decay) * y
            weight = decay * weight + (1 - decay)
            result.append((x, average / weight))
    return result


def charts(columns: Columns) -> dict[str, Chart]:
    """Return the charts that a run's figures make, by the names of their files."""
    loss = columns.get("train/loss", ())
    found = {
        "loss": Chart(
            "Loss",
            [
                Series("", loss, PALETTE[0], faint=True),
                Series("training, smoothed", _calm(loss), PALETTE[0]),
                Series("validation", columns.get("val/loss", ()), PALETTE[1], dots=True),
                Series("validation of the base", columns.get("val/loss_base", ()), PALETTE[7]),
            ],
        ),
        "ratio": Chart(
            "Validation loss / the base's",
            [
                Series("held out", columns.get("val/ratio", ()), PALETTE[1], dots=True),
                Series("trained on", columns.get("val_trained/ratio", ()), PALETTE[2], dots=True),
                Series("unrelated", columns.get("val_unrelated/ratio", ()), PALETTE[3], dots=True),
            ],
            level=1.0,
        ),
        "strata": Chart(
            "Training error by timestep, smoothed",
            _strata(columns, "train/loss_stratum_", calm=True),
            logarithmic=True,
        ),
        "validation_strata": Chart(
            "Validation error by timestep",
            _strata(columns, "val/loss_stratum_", calm=False),
            logarithmic=True,
        ),
        "learning_rate": Chart("Learning rate", _each(columns, "lr/"), zero=True),
        "gradient_norm": _gradient(columns),
        "adapter": Chart(
            "Size of the update / the weight's", _each(columns, "adapter/"), zero=True
        ),
        "speed": Chart(
            "Pictures a second", [Series("", columns.get("speed/pictures_per_s", ()))], zero=True
        ),
        "tokens": Chart(
            "Tokens a second", [Series("", columns.get("speed/tokens_per_s", ()))], zero=True
        ),
        "accuracy": Chart(
            "Token accuracy",
            [
                Series("training", _calm(columns.get("train/accuracy", ())), PALETTE[0]),
                Series("held out", columns.get("val/accuracy", ()), PALETTE[1], dots=True),
            ],
            zero=True,
        ),
        "memory": Chart(
            "Peak of reserved memory, GiB",
            [Series("", columns.get("memory/peak_gib", ()))],
            zero=True,
        ),
    }
    return {
        name: chart for name, chart in found.items() if any(each.points for each in chart.series)
    }


def write_plots(folder: Path) -> list[str]:
    """Draw a run's charts into ``plots/`` and return their names; each file is whole always."""
    drawn = charts(read_columns(folder))
    for name, chart in drawn.items():
        write_png(folder / "plots" / f"{name}.png", draw(chart))
    return list(drawn)


def _calm(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return smoothed(points, max(3, len(points) // 10))


def _each(columns: Columns, prefix: str) -> list[Series]:
    names = sorted(key for key in columns if key.startswith(prefix))
    return [Series(name.removeprefix(prefix), columns[name]) for name in names]


def _strata(columns: Columns, prefix: str, calm: bool) -> list[Series]:
    names = [key for key in columns if key.startswith(prefix)]
    names.sort(key=lambda name: int(name.removeprefix(prefix)))
    last = max(len(names) - 1, 1)
    return [
        Series(
            name.removeprefix(prefix),
            _calm(columns[name]) if calm else columns[name],
            RAMP[round(place * (len(RAMP) - 1) / last)],
        )
        for place, name in enumerate(names)
    ]


def _gradient(columns: Columns) -> Chart:
    norms = columns.get("train/grad_norm", ())
    lines = [
        Series("", norms, PALETTE[2], faint=True),
        Series("smoothed", _calm(norms), PALETTE[2]),
    ]
    return Chart("Norm of the gradient, before clipping", lines, logarithmic=True)
