"""Charts from the CSV files: what they show, and that no figures break them."""

import math
from pathlib import Path

import pytest
from PIL import Image

from elf.watching.chart import PALETTE, SIZE, Chart, Series, draw
from elf.watching.plots import charts, read_columns, smoothed, write_plots

METRICS = """step,train/loss,val/loss,val/ratio,train/loss_stratum_0,lr/unet,adapter/all
9,0.5,,,0.7,0.0001,
19,0.4,0.3,0.75,0.6,0.0001,0.01
29,nan,,,,0.00009,0.02
"""


def pixels(picture: Image.Image, color: str) -> list[tuple[int, int]]:
    wanted = tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))
    data = picture.load()
    assert data is not None
    return [(x, y) for x in range(SIZE[0]) for y in range(72, SIZE[1]) if data[x, y] == wanted]


def test_a_rising_line_rises() -> None:
    chart = draw(Chart("t", [Series("", [(0, 0.0), (50, 1.0), (100, 2.0)], PALETTE[0], dots=True)]))
    assert chart.size == SIZE
    found = pixels(chart, PALETTE[0])
    left, right = min(found), max(found)
    assert left[0] < 100 and right[0] > 900, "from the axis's one end to the other"
    assert left[1] > right[1] + 200, "y grows upwards"


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [],
        [1.0],
        [0.0, 0.0],
        [math.nan, 1.0],
        [math.inf, -math.inf],
        [1e-30, 2e-30],
        [1e30, -1e30],
        [1.0, 1.0 + 1e-15],
        [3.0, 3.01],
        [-5.0, -4.0],
    ],
)
def test_any_figures_make_a_chart(values: list[float], logarithmic: bool) -> None:
    series = Series("x", list(enumerate(values)), dots=True)
    picture = draw(Chart("title", [series], level=1.0, logarithmic=logarithmic))
    assert picture.size == SIZE


def test_an_error_of_rounding_alone_leaves_the_other_values_their_room() -> None:
    values = [(0, 1e-13), (1, 1e-5), (2, 0.1), (3, 1.0)]
    with_it, without_it = (
        draw(Chart("t", [Series("", shown, PALETTE[0])], logarithmic=True))
        for shown in (values, values[1:])
    )
    assert with_it.tobytes() == without_it.tobytes()


def test_many_names_find_room() -> None:
    series = [Series(f"up_blocks.{n}.attentions", [(0, n), (1, n)]) for n in range(12)]
    assert draw(Chart("Size of the update", series)).size == SIZE


def test_smoothing_has_no_bias_and_keeps_a_constant() -> None:
    assert [y for _, y in smoothed([(n, 3.0) for n in range(9)], 5)] == pytest.approx([3.0] * 9)
    assert smoothed([(0, 1.0), (1, math.nan), (2, 3.0)], 3) == [
        (0, 1.0),
        (2, pytest.approx((1 * 0.25 + 3 * 0.5) / 0.75)),
    ]


def test_charts_are_made_of_what_was_logged(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    columns = read_columns(tmp_path)
    assert columns["val/ratio"] == [(19, 0.75)]
    made = charts(columns)
    assert set(made) == {"loss", "ratio", "strata", "learning_rate", "adapter"}
    assert [each.name for each in made["learning_rate"].series] == ["unet"]
    assert write_plots(tmp_path) == list(made)
    for name in made:
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert picture.size == SIZE
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_without_figures_has_no_charts(tmp_path: Path) -> None:
    assert write_plots(tmp_path) == []
