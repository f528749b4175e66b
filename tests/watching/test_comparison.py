"""Checkpoints' figures as a table, as CSV and as a chart."""

import csv
import io
import math

import pytest

from elf.watching.chart import PALETTE, draw
from elf.watching.comparison import Measured, chart, csv_text, lowest, table


def measured(step: int, loss: float, **more: float) -> Measured:
    ratio = loss / 0.125
    ends = {"val/ratio_low": ratio - 0.01, "val/ratio_high": ratio + 0.01}
    figures = {"val/loss": loss, "val/ratio": ratio, **ends}
    named = {f"val_{key}/ratio": value for key, value in more.items()}
    return Measured(step, f"step-{step:06d}", f"c/step-{step:06d}.ckpt", {**figures, **named})


ROWS = [measured(500, 0.12), measured(1000, 0.11), measured(1500, 0.115)]


def test_the_table_is_aligned_and_marks_the_lowest() -> None:
    assert table(ROWS) == [
        " step  checkpoint   val/loss  val/ratio     95 % interval",
        "  500  step-000500   0.12000     0.9600  0.9500 to 0.9700",
        "1,000  step-001000   0.11000     0.8800  0.8700 to 0.8900  lowest",
        "1,500  step-001500   0.11500     0.9200  0.9100 to 0.9300",
    ]
    assert "lowest" not in "".join(table(ROWS[:1]))


def test_the_table_shows_other_sets_where_there_are_any() -> None:
    rows = [measured(500, 0.12, trained=0.75), measured(1000, 0.11, unrelated=1.125)]
    lines = table(rows)
    assert lines[0].split()[-2:] == ["trained", "unrelated"]
    assert lines[1].split()[-1] == "0.7500"
    assert lines[2].split()[-2:] == ["1.1250", "lowest"]


def test_a_loss_that_is_no_number_is_not_the_lowest() -> None:
    assert lowest([measured(1, math.nan), measured(2, 0.2), measured(3, 0.2)]).step == 2


def test_one_picture_has_no_interval() -> None:
    row = measured(500, 0.12)
    bare = {**row.figures, "val/ratio_low": math.nan, "val/ratio_high": math.nan}
    rows = [Measured(row.step, row.name, row.path, bare)]
    assert table(rows)[1].split() == ["500", "step-000500", "0.12000", "0.9600"]
    assert draw(chart(rows)).size == (960, 420)


def test_the_csv_has_every_figure() -> None:
    rows = [measured(500, 0.1234567891), measured(1000, 0.11, trained=0.75)]
    found = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert [row["step"] for row in found] == ["500", "1000"]
    assert found[0]["checkpoint"] == "c/step-000500.ckpt"
    assert found[0]["val/loss"] == "0.123456789"
    assert [row["val_trained/ratio"] for row in found] == ["", "0.75"]


def test_the_chart_rings_the_lowest_of_several() -> None:
    assert chart(ROWS).ring == (1000, pytest.approx(0.88), "lowest: step 1,000")
    assert chart(ROWS[:1]).ring is None
    held_out, trained, unrelated = chart(ROWS).series
    assert held_out.points == [(500, 0.96), (1000, 0.88), (1500, pytest.approx(0.92))]
    assert held_out.band[1] == (1000, pytest.approx(0.87), pytest.approx(0.89))
    assert not trained.points and not unrelated.points


def test_the_chart_of_a_long_runs_end_begins_there() -> None:
    late = chart([measured(step, 0.12) for step in (9000, 9500, 10000)])
    assert not late.whole and chart(ROWS).whole and chart(ROWS[:1]).whole


def test_the_interval_is_shaded_behind_the_line() -> None:
    pale = (250, 235, 224)  # one part of eight of the line's colour
    picture = draw(chart(ROWS))
    colors = [color for _, color in picture.getcolors(1 << 20) or []]
    line = tuple(int(PALETTE[1][place : place + 2], 16) for place in (1, 3, 5))
    assert pale in colors and line in colors
    without = draw(chart([measured(row.step, row.figures["val/loss"]) for row in ROWS][:1]))
    assert pale not in [color for _, color in without.getcolors(1 << 20) or []]
