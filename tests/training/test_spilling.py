"""Spilled memory is told once, of made-up series of times, and nothing else is taken for it."""

import random

import pytest

from elf.platforms import can_forbid_lending, lends_system_memory
from elf.training.spilling import GIB, CardMemory, SpillDetector, StepTimes

TOTAL = 8 * GIB
FITS = CardMemory(int(5.5 * GIB), GIB // 2, 2 * GIB, TOTAL)
FULL = CardMemory(int(7.2 * GIB), GIB // 2, GIB // 8, TOTAL)
OVER = CardMemory(9 * GIB, GIB // 2, 0, TOTAL)


def run(
    times: list[tuple[object, float]], memory: CardMemory, every: int = 10, then: int = 0
) -> list[str]:
    """Return what is told of times, looked at now and then; before row `then` memory fitted."""
    detector, told = SpillDetector(), []
    for number, (form, seconds) in enumerate(times, 1):
        detector.times.add(form, seconds)
        if number % every == 0:
            told.append(detector.look(FITS if number // every <= then else memory))
    return [each for each in told if each is not None]


def steps(count: int, seconds: float, form: object = 0) -> list[tuple[object, float]]:
    draw = random.Random(0)
    return [(form, seconds * draw.uniform(0.9, 1.1)) for _ in range(count)]


@pytest.mark.parametrize("factor", [4, 10, 50])
def test_steps_that_become_slower_on_a_full_card_are_told_once(factor: float) -> None:
    (told,) = run(steps(50, 0.2) + steps(50, 0.2 * factor), FULL)
    assert told.startswith(f"a batch takes {0.2 * factor:.2g} s instead of 0.19 s, and this run ")
    assert "holds 7.20 GiB of a full GPU of 8.00 GiB: the driver seems to keep part of it" in told
    assert "take a smaller data.batch_size, model.gradient_checkpointing or model.quant" in told
    assert "\n" not in told


@pytest.mark.parametrize("free", [0, 3 * GIB])
def test_a_card_is_full_by_what_is_held_or_by_what_is_free(free: int) -> None:
    held = CardMemory(int(7.5 * GIB), GIB // 2, free, TOTAL)
    assert held.full
    assert CardMemory(GIB, 0, GIB // 8, TOTAL).full, "others may have come since"
    assert not FITS.full and not FITS.over
    assert FULL.full and not FULL.over
    assert OVER.full and OVER.over


def test_a_card_with_room_spills_nothing_whatever_the_times() -> None:
    assert run(steps(50, 0.2) + steps(100, 20), FITS) == []


def test_a_full_card_whose_steps_stay_as_they_are_spills_nothing() -> None:
    assert run(steps(500, 0.2), FULL) == []
    assert run(steps(100, 0.2) + steps(100, 0.5), FULL) == [], "heat, or another program"


def test_the_first_steps_of_a_form_may_take_long() -> None:
    """They choose kernels, and are captured or compiled."""
    assert run([(0, 30.0), (0, 4.0), *steps(60, 0.2)], FULL) == []
    late = [*steps(60, 0.2), (1, 30.0), (1, 4.0), *steps(10, 0.2, 1), *steps(60, 0.2)]
    assert run(late, FULL) == []


def test_other_buckets_take_other_times() -> None:
    small, large = steps(40, 0.1, "small"), steps(40, 2.0, "large")
    assert run(small + large + small + large, FULL) == []
    mixed = [each for pair in zip(small, large, strict=True) for each in pair]
    assert run(mixed, FULL) == []


def test_of_several_forms_the_one_that_became_slower_is_told() -> None:
    times = [*steps(20, 0.1, "small"), *steps(20, 0.5, "large"), *steps(10, 5.0, "large")]
    (told,) = run([*times, *steps(10, 0.1, "small")], FULL)
    assert "instead of 0.5" in told or "instead of 0.49" in told


@pytest.mark.parametrize("pauses", [1, 2])
def test_single_slow_steps_are_none(pauses: int) -> None:
    """As those after a validation or a sample picture, whose memory is asked for anew."""
    times = []
    for _ in range(10):
        times += steps(9, 0.2) + [(0, 40.0)] * pauses
    assert run(times, FULL, every=1) == []


def test_what_gets_slower_comes_back_only_after_it_was_told() -> None:
    times = StepTimes()
    for form, seconds in steps(20, 0.1) + steps(10, 1.0):
        times.add(form, seconds)
    slow = times.slowdown()
    assert slow is not None and slow.now > 9 * slow.before
    for form, seconds in steps(10, 0.1):
        times.add(form, seconds)
    assert times.slowdown() is None


def test_what_never_fitted_is_told_by_what_is_held() -> None:
    (told,) = run(steps(100, 5.0), OVER)
    assert told.startswith(
        "this run holds 9.00 GiB and other programs 0.50 GiB of a GPU of 8.00 GiB: the driver "
        "keeps part of it in system memory, where steps take 10 to 50 times as long; take a "
    )
    assert run(steps(10, 5.0), OVER) == [], "once may be a moment's"


def test_what_fitted_once_is_judged_by_its_times() -> None:
    """What sample pictures leave reserved may be what is in system memory, and nobody misses it."""
    assert run(steps(100, 0.2), OVER, then=3) == []
    assert len(run(steps(60, 0.2) + steps(60, 2.0), OVER, then=3)) == 1


@pytest.mark.parametrize(("system", "setting"), [("win32", True), ("linux", False)])
def test_the_drivers_setting_is_named_where_it_is_heeded(
    system: str, setting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "elf.training.spilling.can_forbid_lending", lambda: can_forbid_lending(system)
    )
    (told,) = run(steps(100, 5.0), OVER)
    assert ("'CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback'" in told) is setting


@pytest.mark.parametrize(
    ("system", "release", "expected"),
    [
        ("win32", "11", True),
        ("linux", "5.15.167.4-microsoft-standard-WSL2", True),
        ("linux", "6.8.0-52-generic", False),
        ("darwin", "24.1.0", False),
    ],
)
def test_only_some_drivers_lend_system_memory(system: str, release: str, expected: bool) -> None:
    assert lends_system_memory(system, release) is expected
