"""What was seen, against a plain count over all batches."""

import numpy as np
import pytest

from elf.training.epoch import order
from elf.training.seen import Seeing

BUCKETS = [0, 0, 0, 1, 1, 1, 1, 1, 2, 0]
REPEATS = np.array([1, 2, 1, 1, 3, 1, 1, 0, 1, 1])
SETS = [0, 1, 0, 1, 0, 0, 1, 1, 0, 0]


def counted(epoch: int, batch: int, drop: bool) -> tuple[int, int, int, list[int]]:
    rows, fills = [], 0
    for number in range(epoch + 1):
        plan = order(BUCKETS, 4, 5, number, drop, REPEATS)
        last = batch if number == epoch else len(plan.rows)
        rows += plan.rows[:last].ravel().tolist()
        times = plan.occurrence[:last] >= REPEATS[plan.rows[:last]]
        fills += int(times.sum())
        if number < epoch:
            assert int(times.sum()) == plan.fills
    by_set = [sum(SETS[row] == number for row in rows) for number in (0, 1)]
    return len(rows), len(set(rows)), fills, by_set


@pytest.mark.parametrize("drop", [False, True])
def test_counts_are_those_of_the_batches(drop: bool) -> None:
    seeing = Seeing(BUCKETS, 4, 5, drop, REPEATS, SETS)
    for epoch, batch in [(0, 0), (0, 1), (0, 2), (1, 0), (2, 1), (4, 2), (1, 1)]:
        seen = seeing.at(epoch, batch)
        found = (seen.pictures, seen.distinct, seen.fills, seen.by_set.tolist())
        assert found == counted(epoch, batch, drop), (epoch, batch)


def test_one_set_without_repeats() -> None:
    seen = Seeing([0] * 5, 2, 0).at(1, 0)
    assert (seen.pictures, seen.distinct, seen.fills, seen.by_set.tolist()) == (6, 5, 1, [6])
