import numpy as np
import pytest

from elf.taggers.scores import STRONG, Scores


def kinds(count):
    """Scores of every kind: all sizes, around what a byte holds, few, none, the largest."""
    draw = np.random.default_rng(count)
    few = draw.integers(0, 10_001, count) * (draw.random(count) < 0.02)
    around = draw.integers(STRONG - 2, STRONG + 2, count)
    for units in (draw.integers(0, 10_001, count), around, few, few * 0, few * 0 + 10_000):
        yield units.astype(np.uint16)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 257, 10_861, 70_000])
def test_every_score_comes_back_whatever_its_size(count):
    for units in kinds(count):
        back = Scores.unpack(Scores.of(units).pack())
        assert back.dense.dtype == np.uint16 and len(back) == count
        np.testing.assert_array_equal(back.dense, units)


@pytest.mark.parametrize("count", [0, 1, 9, 10_861])
def test_the_scores_of_several_pictures(count):
    rows = np.stack(list(kinds(count)))
    each = Scores.of_each(rows)
    assert [scores.pack() for scores in each] == [Scores.of(row).pack() for row in rows]
    assert Scores.of_each(rows[:0]) == []


def test_a_score_by_its_place():
    scores = Scores.of(np.uint16([7, 0, 9000]))
    assert [scores[place] for place in range(3)] == [7, 0, 9000]


@pytest.mark.parametrize("lowest", [1, STRONG - 1, STRONG, 3000])
def test_those_that_reach_what_is_asked_of_them(lowest):
    least = np.random.default_rng(0).integers(lowest, 4000, 999).astype(np.uint16)
    least[500] = lowest
    for units in kinds(999):
        places, strong = Scores.unpack(Scores.of(units).pack()).reaching(least, lowest)
        np.testing.assert_array_equal(places, np.flatnonzero(units >= least))
        np.testing.assert_array_equal(strong, units[units >= least])


@pytest.mark.parametrize("among", [[0, 1, 2, 3], [5, 9], [998]])
def test_the_largest_of_some_and_of_equal_ones_the_first(among):
    for units in kinds(999):
        expected = among[int(np.argmax(units[among]))]
        assert Scores.of(units).largest(np.array(among)) == expected


def test_the_largest_of_weak_ones():
    units = np.uint16([3, 200, 200, 0, 9000])
    assert Scores.of(units).largest(np.arange(4)) == 1
    assert Scores.of(units[:4]).largest(np.arange(4)) == 1
