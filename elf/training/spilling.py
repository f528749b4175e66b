"""GPU memory that spilled into system memory, seen by what it does.

NVIDIA's drivers on Windows, and under WSL, give a process more memory than the card has, and keep
the rest in system memory. Nothing fails; steps only take 10 to 50 times as long. No driver says so.
It is concluded from steps that have become slower while the card is full, or, where it was too full
from the start on, from the sum of what is held.
"""

from collections import deque
from collections.abc import Hashable
from statistics import median
from typing import NamedTuple

from elf.memory import GIB
from elf.platforms import can_forbid_lending

FIRST = 2
"""Steps of a form that do not count: kernels are chosen, compiled and captured in them."""

WINDOW = 5
"""Steps whose median counts: one that waited for something else is none."""

SLOWER = 3.0
"""How many times as long as before steps must take; heat and other programs cost less."""

FULL = 0.95
"""Share of a card from which on it is full."""


class CardMemory(NamedTuple):
    """How a card's memory is used, in bytes.

    Attributes:
        reserved: By this process's torch, wherever the driver keeps it.
        others: By other programs and CUDA itself, before the first step.
        free: What the driver calls free.
        total: What the card has.
    """

    reserved: int
    others: int
    free: int
    total: int

    @property
    def full(self) -> bool:
        """Whether next to nothing is left."""
        held = self.reserved + self.others
        return held >= FULL * self.total or self.free <= (1 - FULL) * self.total

    @property
    def over(self) -> bool:
        """Whether more is held than the card has."""
        return self.reserved + self.others > self.total


class Slowdown(NamedTuple):
    """How much longer the steps of one form take than they did.

    Attributes:
        before: The least median there was, in seconds.
        now: That of the last steps.
    """

    before: float
    now: float


class StepTimes:
    """Times of steps, form by form: another bucket's steps take another time."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, int] = {}
        self._last: dict[Hashable, deque[float]] = {}
        self._best: dict[Hashable, float] = {}

    def add(self, form: Hashable, seconds: float) -> None:
        """Add a step.

        Args:
            form: Steps of one form do the same work.
            seconds: What it took.
        """
        self._seen[form] = self._seen.get(form, 0) + 1
        if self._seen[form] <= FIRST:
            return
        last = self._last.setdefault(form, deque(maxlen=WINDOW))
        last.append(seconds)
        if len(last) == WINDOW:
            self._best[form] = min(self._best.get(form, median(last)), median(last))

    def slowdown(self) -> Slowdown | None:
        """Return the worst of the forms that take `SLOWER` times as long as they did, if any."""
        now = {form: Slowdown(best, median(self._last[form])) for form, best in self._best.items()}
        slow = [each for each in now.values() if each.now > SLOWER * each.before]
        return max(slow, key=lambda each: each.now / each.before, default=None)


class SpillDetector:
    """Concludes once that memory spilled.

    Attributes:
        times: Of the steps; to be filled by whoever measures them.
    """

    def __init__(self) -> None:
        self.times = StepTimes()
        self._looks_over = 0
        self._fitted = self._told = False

    def look(self, memory: CardMemory) -> str | None:
        """Return what is to be told, the first time that there is something.

        What never fitted has no faster steps to compare with: there the sum alone tells, of two
        looks one after the other. What fitted and then no longer did has: there time decides.

        Args:
            memory: As it is used now.
        """
        self._fitted |= not memory.over
        self._looks_over = self._looks_over + 1 if memory.over else 0
        if self._told:
            return None
        slow = self.times.slowdown()
        if slow is not None and memory.full:
            told = (
                f"a batch takes {slow.now:.2g} s instead of {slow.before:.2g} s, and this run "
                f"holds {_gib(memory.reserved)} of a full GPU of {_gib(memory.total)}: the driver "
                "seems to keep part of it in system memory"
            )
        elif self._looks_over > 1 and not self._fitted:
            told = (
                f"this run holds {_gib(memory.reserved)} and other programs {_gib(memory.others)} "
                f"of a GPU of {_gib(memory.total)}: the driver keeps part of it in system memory, "
                "where steps take 10 to 50 times as long"
            )
        else:
            return None
        self._told = True
        return f"{told}; {_way_out(can_forbid_lending())}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _way_out(forbidding: bool) -> str:
    ways = "take a smaller data.batch_size, model.gradient_checkpointing or model.quantization"
    if not forbidding:
        return ways
    return (
        f"{ways}; the driver's setting 'CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback' "
        "makes it an error instead"
    )
