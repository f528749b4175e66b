"""What both pages make of what a program sends them."""

from types import SimpleNamespace
from typing import Any

import pytest

from elf.errors import ElfError
from elf.serving.pageparts import Stops, whole


def test_numbers_are_whole_or_refused_by_name() -> None:
    assert whole(steps=3.0, seed=-1) == {"steps": 3, "seed": -1}
    for value in (None, 1.5, float("nan"), float("inf")):
        with pytest.raises(ElfError, match=f"^steps {value} is no whole number$"):
            whole(seed=1, steps=value)


def test_a_page_stops_its_own_and_newest_work_alone() -> None:
    stops, mine, theirs = Stops(), *(SimpleNamespace(session_hash=name) for name in "ab")
    here: Any = mine
    there: Any = theirs
    with stops.of(here) as old, stops.of(there) as other:
        with stops.of(here) as new:
            stops.stop(here)
            assert (old.is_set(), new.is_set(), other.is_set()) == (False, True, False)
        stops.stop(here)  # its work has ended: nothing is left to be stopped
        assert not other.is_set()
    stops.stop(here)
