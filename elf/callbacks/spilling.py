"""Measures what tells that GPU memory spilled into system memory; nothing waits for the device."""

import warnings
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch

from elf.errors import ElfWarning
from elf.platforms import lends_system_memory
from elf.stepping.static import form_of
from elf.training.spilling import CardMemory, SpillDetector

MOST = 512
"""Batches timed between two looks at most."""


class _Pair(NamedTuple):
    start: Any
    stop: Any


def timed_event() -> torch.cuda.Event:
    """Return an event that knows its time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Laps:
    """Times batches on the GPU, by events in its stream: the processor is far ahead of it.

    Args:
        event: Makes an event.
    """

    def __init__(self, event: Callable[[], Any] = timed_event) -> None:
        self._event = event
        self._spare: list[_Pair] = []
        self._running: _Pair | None = None
        self._laps: deque[tuple[Hashable, _Pair]] = deque()

    def start(self) -> None:
        """Begin a lap."""
        if self._running is None and len(self._laps) < MOST:
            self._running = self._spare.pop() if self._spare else self._made()
        if self._running is not None:
            self._running.start.record()

    def _made(self) -> _Pair:
        return _Pair(self._event(), self._event())

    def stop(self, name: Hashable) -> None:
        """End it; None forgets it."""
        if self._running is None or name is None:
            return
        self._running.stop.record()
        self._laps.append((name, self._running))
        self._running = None

    def taken(self) -> list[tuple[Hashable, float]]:
        """Return names and seconds of the laps since the last call that the device has done."""
        laps = []
        while self._laps and self._laps[0][1].stop.query():
            name, pair = self._laps.popleft()
            laps.append((name, pair.start.elapsed_time(pair.stop) / 1e3))
            self._spare.append(pair)
        return laps


class SpillWatch:
    """Tells once, by a warning, that memory spilled.

    Args:
        memory: Returns how the card's memory is used.
        laps: Times the steps.
    """

    def __init__(self, memory: Callable[[], CardMemory], laps: Laps) -> None:
        self._memory, self._laps = memory, laps
        self._detector = SpillDetector()
        self._captures = 0

    def begin(self) -> None:
        """A batch's step begins."""
        self._laps.start()

    def end(self, batch: Any, stepped: bool, module: Any) -> None:
        """It has been asked for.

        Args:
            batch: The batch.
            stepped: Whether an optimizer step was part of it.
            module: The module in training.
        """
        passes = getattr(getattr(module, "stepper", None), "passes", None)
        captures = getattr(passes, "captures", 0)
        captured, self._captures = captures != self._captures, captures
        form = form_of(batch) if isinstance(batch, Mapping) else ()
        self._laps.stop(None if captured else (form, stepped))

    def look(self) -> None:
        """Look at the steps since the last time that the device has done."""
        for form, seconds in self._laps.taken():
            self._detector.times.add(form, seconds)
        told = self._detector.look(self._memory())
        if told is not None:
            warnings.warn(told, ElfWarning, stacklevel=2)


def spill_watch(device: torch.device) -> SpillWatch | None:
    """Return the watch of a device; None where no driver lends it system memory."""
    if device.type != "cuda" or not lends_system_memory():
        return None
    return SpillWatch(card_memory(device), Laps())


def card_memory(device: torch.device) -> Callable[[], CardMemory]:
    """Return what returns how a card's memory is used; what is used by others is seen now."""
    free, total = torch.cuda.mem_get_info(device)
    others = max(0, total - free - torch.cuda.memory_reserved(device))

    def memory() -> CardMemory:
        free, total = torch.cuda.mem_get_info(device)
        return CardMemory(torch.cuda.memory_reserved(device), others, free, total)

    return memory
