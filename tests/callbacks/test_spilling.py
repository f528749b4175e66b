"""A run whose steps become slower on a full card is told so, once; its clock is made up."""

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elf import trainer
from elf.callbacks.spilling import MOST, Laps, SpillWatch, spill_watch
from elf.training.spilling import GIB, CardMemory

FITS = CardMemory(4 * GIB, GIB, 3 * GIB, 8 * GIB)
FULL = CardMemory(7 * GIB, GIB, 0, 8 * GIB)
OVER = CardMemory(8 * GIB, GIB, 0, 8 * GIB)


class Clock:
    """A clock that a test sets forward, and its events."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.done = math.inf  # where the device stands: it has done all

    def event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at: float | None = None

    def record(self) -> None:
        self.at = self._clock.seconds

    def query(self) -> bool:
        return self.at is not None and self.at <= self._clock.done

    def elapsed_time(self, end: "Event") -> float:
        assert self.at is not None and end.at is not None
        return 1e3 * (end.at - self.at)  # ms, as torch's


def fit(
    training: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: CardMemory,
    slow_from: int,
) -> list[str]:
    """Train on the CPU with a clock that a step sets forward, and return what is told."""
    clock = Clock()
    step = trainer.elf.modules.DiffusionModule.training_step

    def timed(self: Any, batch: Any, batch_idx: int) -> Any:
        large = batch["latents"].shape[-1] != batch["latents"].shape[-2]
        late = self.global_step >= slow_from
        clock.seconds += (0.3 if large else 0.1) * (20 if late else 1)
        return step(self, batch, batch_idx)

    def waited(self: Any, batch: Any, dataloader_idx: int) -> Any:
        clock.seconds += 1000  # for the batch: no part of its step
        return before(self, batch, dataloader_idx)

    before = trainer.elf.modules.DiffusionModule.on_before_batch_transfer
    monkeypatch.setattr(trainer.elf.modules.DiffusionModule, "training_step", timed)
    monkeypatch.setattr(trainer.elf.modules.DiffusionModule, "on_before_batch_transfer", waited)
    monkeypatch.setattr(
        "elf.callbacks.speed.spill_watch",
        lambda device: SpillWatch(lambda: memory, Laps(clock.event)),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.run(
            "fit",
            [
                *training,
                f"--trainer.default_root_dir={folder}",
                "--trainer.callbacks=[]",
                "--trainer.max_steps=60",
                "--trainer.val_check_interval=15",
                "--trainer.log_every_n_steps=5",
                "--trainer.accumulate_grad_batches=1",
                "--data.batch_size=2",
                "--model.validation_strata=1",
            ],
        )
    told = [str(each.message) for each in caught]
    return [each for each in told if "system memory" in each]


@pytest.mark.parametrize(
    ("memory", "slow_from", "expected"),
    [
        (FULL, 30, r"a batch takes (2|6) s instead of 0\.\d+ s, and this run holds 7\.00 GiB"),
        pytest.param(FULL, 1000, None, marks=pytest.mark.slow),
        pytest.param(FITS, 30, None, marks=pytest.mark.slow),
        pytest.param(
            OVER,
            1000,
            r"this run holds 8\.00 GiB and other programs 1\.00 GiB of a GPU of 8\.00",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["slower and full", "full", "slower", "too full from the start"],
)
def test_a_run_tells_once(
    memory: CardMemory,
    slow_from: int,
    expected: str | None,
    training: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Buckets of two shapes, validations, and long waits for each batch are no reason."""
    told = fit(training, tmp_path, monkeypatch, memory, slow_from)
    assert len(told) == (expected is not None)
    assert all(re.match(str(expected), each) for each in told)


class Module:
    """What of a module in training is looked at."""

    def __init__(self) -> None:
        self.stepper = self.passes = self
        self.captures = 0


@pytest.fixture
def watched() -> Iterator[tuple[SpillWatch, Laps, Clock]]:
    clock = Clock()
    laps = Laps(clock.event)
    yield SpillWatch(lambda: FULL, laps), laps, clock


def batch(side: int) -> dict[str, Any]:
    return {"latents": torch.zeros(1, 4, side, side), "id": ["a"]}


def test_a_step_in_which_a_graph_was_captured_is_not_timed(
    watched: tuple[SpillWatch, Laps, Clock],
) -> None:
    watch, laps, clock = watched
    module = Module()
    for captures, seconds in ((1, 5.0), (1, 0.25), (2, 5.0), (2, 0.5), (2, 0.25)):
        module.captures = captures
        watch.begin()
        clock.seconds += seconds
        watch.end(batch(8), True, module)
        clock.seconds += 100  # what comes between two steps
    assert [seconds for _, seconds in laps.taken()] == pytest.approx([0.25, 0.5, 0.25])


def test_batches_of_other_shapes_and_those_with_an_update_are_other_forms(
    watched: tuple[SpillWatch, Laps, Clock],
) -> None:
    watch, laps, _ = watched
    for side, stepped in ((8, False), (8, True), (16, True), (8, True)):
        watch.begin()
        watch.end(batch(side), stepped, Module())
    forms = [form for form, _ in laps.taken()]
    assert len(set(forms)) == 3
    assert forms[1] == forms[3]


def test_events_are_used_again_and_their_number_has_a_limit() -> None:
    clock, made = Clock(), []

    def event() -> Event:
        made.append(clock.event())
        return made[-1]

    laps = Laps(event)
    for turn in range(3):
        for number in range(MOST + 10):
            laps.start()
            clock.seconds += 1 + turn
            laps.stop(number)
        assert [seconds for _, seconds in laps.taken()] == pytest.approx([1.0 + turn] * MOST)
    assert len(made) == 2 * MOST
    assert laps.taken() == []
    clock.done = 0
    laps.start()
    laps.stop(1)
    assert laps.taken() == [], "the device is at work on it"
    clock.done = clock.seconds
    assert len(laps.taken()) == 1


def test_nothing_is_watched_where_nothing_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spill_watch(torch.device("cpu")) is None
    monkeypatch.setattr("elf.callbacks.spilling.lends_system_memory", lambda: False)
    assert spill_watch(torch.device("cuda", 0)) is None
