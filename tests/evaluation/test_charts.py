"""Charts are drawn to scale, and their colours say what is sure."""

import re

import pytest

from elf.evaluation.charts import Line, Plot, Point, bar, chart, colour, verdict
from elf.evaluation.schema import Difference
from elf.evaluation.words import difference, number, question


def circles(text: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)
    ]


def rules(text: str, kind: str) -> list[tuple[float, ...]]:
    found = re.findall(rf'<line class="{kind}" x1="(.+?)" y1="(.+?)" x2="(.+?)" y2="(.+?)"/>', text)
    return [tuple(map(float, each)) for each in found]


POINTS = [Point(0.0, 0.0), Point(0.5, 0.1, 0.05, 0.2), Point(1.0, 0.2, 0.1, 0.3)]


def test_points_and_intervals_are_to_scale() -> None:
    text = chart(Plot("one", [Line("a", POINTS)], "strength", ticks=(0.0, 0.5, 1.0), mark=0.5))
    (x0, y0), (x1, y1), (x2, y2) = circles(text)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    stems = [each for each in rules(text, "span") if each[0] == each[2]]
    assert [each[0] for each in stems] == [x1, x2]
    per = (y0 - y2) / 0.2  # px a unit
    assert y1 - stems[0][3] == pytest.approx(0.1 * per, abs=0.3)
    assert stems[0][1] - y1 == pytest.approx(0.05 * per, abs=0.3)
    assert rules(text, "mark")[0][0] == x1 and ">use 0.5</text>" in text
    assert ">base</text>" in text


def test_intervals_of_two_lines_lie_beside_each_other() -> None:
    text = chart(Plot("two", [Line("a", POINTS), Line("b", POINTS)], "x", ticks=(0.0, 0.5, 1.0)))
    places = circles(text)
    assert all(b[0] - a[0] > 2 for a, b in zip(places[:3], places[3:], strict=True))
    assert text.count('class="swatch"') == 2


def test_the_good_strengths_are_shaded() -> None:
    plot = Plot("one", [Line("a", POINTS)], "x", ticks=(0.0, 0.5, 1.0), band=(0.5, 1.0))
    found = re.search(r'class="band" x="([\d.]+)" .*? width="([\d.]+)"', chart(plot))
    assert found is not None
    x1, x2 = circles(chart(plot))[1][0], circles(chart(plot))[2][0]
    assert float(found[1]) == x1 and float(found[2]) == pytest.approx(x2 - x1, abs=0.1)
    assert 'class="band"' not in chart(Plot("one", [Line("a", POINTS)], "x", band=(0.5, 0.5)))


def test_one_point_alone_is_drawn() -> None:
    assert len(circles(chart(Plot("one", [Line("a", [Point(1.0, 0.0)])], "x")))) == 1


def test_a_dashed_line_has_the_colour_of_its_whole_one() -> None:
    lines = [Line("base", [], base=True), Line("a", []), Line("a off", [], dashed=True),
             Line("b", []), Line("b off", [], dashed=True)]  # fmt: skip
    found = [colour(lines, place) for place in range(5)]
    assert found[0] == "var(--pale)"
    assert found[1] == found[2] != found[3] == found[4]


def test_texts_in_charts_stay_texts() -> None:
    text = chart(Plot("<b>", [Line('"<i>', POINTS), Line("b", POINTS)], "<u>"))
    assert not re.search("<b>|<i>|<u>", text) and "&lt;b&gt;" in text


@pytest.mark.parametrize(
    ("change", "better", "said"),
    [
        (Difference(0.2, 0.1, 0.3), "higher", "gain"),
        (Difference(0.2, 0.1, 0.3), "lower", "loss"),
        (Difference(-0.2, -0.3, -0.1), "lower", "gain"),
        (Difference(-0.2, -0.3, -0.1), "higher", "loss"),
        (Difference(0.2, -0.1, 0.5), "higher", "open"),
        (Difference(0.2), "higher", "open"),
        (Difference(0.2, 0.1, 0.3), None, "open"),
    ],
)
def test_only_what_leaves_zero_out_is_coloured(
    change: Difference, better: str | None, said: str
) -> None:
    assert verdict(change, better) == said
    assert f'class="bar {said}"' in bar(change, 0.5, better)


def test_a_bar_ends_within_its_picture() -> None:
    text = bar(Difference(0.2, -0.3, 0.7), 0.7, "higher")
    zero, span = rules(text, "zero")[0], rules(text, "span")[0]
    assert 0 < span[0] < zero[0] < circles(text)[0][0] < span[2] < 2 * zero[0]
    assert span[2] - zero[0] == pytest.approx((zero[0] - span[0]) * 7 / 3, abs=0.3)
    assert circles(bar(Difference(0.0), 0.0, None))[0][0] == zero[0]


def test_numbers_are_written_for_people() -> None:
    rate, subject = question("concept_rate"), question("subject_similarity")
    assert number(0.625, rate) == "62.5\u00a0%"
    assert difference(Difference(-0.1, -0.2, 0.0), rate) == "−10.0 [−20.0, 0.0] points"
    assert difference(Difference(0.16, 0.13, 0.19), subject) == "+0.160 [+0.130, +0.190]"
    assert difference(Difference(-0.0001), subject) == "0.000"
    assert number(None, subject) == "–"
    assert question("new_metric").title == "new metric"
