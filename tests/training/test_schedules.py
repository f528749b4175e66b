"""Learning rate schedules: their values on numbers, and what cannot be a schedule of a run."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from elf.errors import ElfError
from elf.training.schedules import (
    ScheduleConfig,
    factor,
    length,
    make_schedule,
    options,
    refuse_short,
    run_length,
)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=0.5)


def rates(config: ScheduleConfig, steps: int) -> list[float]:
    made = optimizer()
    schedule = make_schedule(made, config, steps)
    found = []
    for _ in range(steps):
        found.append(made.param_groups[0]["lr"])
        made.step()
        if schedule is not None:
            schedule.step()
    return found


def test_warm_up_rises_to_the_full_rate_and_never_stands_at_0() -> None:
    found = rates(ScheduleConfig(warmup=4), 6)
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [(1 + math.cos(math.pi * x / 4)) / 2 for x in range(5)]),
        ("polynomial", [1, 0.75**3, 0.5**3, 0.25**3, 0]),
    ],
)
def test_shapes_by_hand(shape: str, wanted: list[float]) -> None:
    config = ScheduleConfig(shape, power=3)
    assert [factor(step, config, 4) for step in range(5)] == pytest.approx(wanted, abs=1e-12)
    end = ScheduleConfig(shape, power=3, end=0.2)
    lifted = [1.0 if shape == "constant" else 0.2 + 0.8 * value for value in wanted]
    assert [factor(step, end, 4) for step in range(5)] == pytest.approx(lifted)


def test_inverse_square_root_by_hand() -> None:
    config = ScheduleConfig("inverse_sqrt", warmup=4)
    found = [factor(step, config, 0) for step in (3, 4, 16, 400)]
    assert found == pytest.approx([0.8, 1.0, 0.5, 0.1])


def test_cycles_begin_at_the_full_rate() -> None:
    config = ScheduleConfig("linear", cycles=2)
    assert [factor(step, config, 8) for step in range(9)] == pytest.approx(
        [1, 0.75, 0.5, 0.25, 1, 0.75, 0.5, 0.25, 0]
    )


def test_a_warm_up_below_1_is_a_share_of_the_run() -> None:
    share, steps = (ScheduleConfig("cosine", warmup=number) for number in (0.25, 2))
    assert rates(share, 8) == pytest.approx(rates(steps, 8))
    assert length(ScheduleConfig(warmup=0.5), 8) == 8


def test_a_rate_that_never_changes_needs_no_schedule() -> None:
    assert make_schedule(optimizer(), ScheduleConfig(), -1) is None


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((100, None, 7, None, 1), 100),
        ((-1, 3, 7, None, 1), 21),
        ((-1, 3, 7, None, 4), 6),
        ((-1, 3, 7, 5, 1), 15),
        ((-1, 3, 8, 0.5, 1), 12),
        ((10, 3, 7, None, 1), 10),
        ((-1, -1, 7, None, 1), -1),
    ],
)
def test_the_length_of_a_run(arguments, wanted: int) -> None:
    assert run_length(*arguments) == wanted


def test_a_schedule_spans_the_run_or_what_it_says() -> None:
    assert length(ScheduleConfig("cosine"), 100) == 100
    assert length(ScheduleConfig("cosine", total_steps=80, end=0.1), 100) == 80
    assert length(ScheduleConfig("constant", warmup=10), 100) is None
    assert factor(90, ScheduleConfig("cosine", end=0.1), 80) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScheduleConfig(warmup=-1), "model.schedule.warmup -1 must be at"),
        (lambda: ScheduleConfig(cycles=0), "model.schedule.cycles 0 must be at least 1"),
        (lambda: ScheduleConfig(end=2), "model.schedule.end 2 must be a factor from 0 to 1"),
        (lambda: ScheduleConfig(power=0), "model.schedule.power 0 must be above 0"),
        (lambda: ScheduleConfig(total_steps=0), "model.schedule.total_steps 0 must be at least 1"),
        (
            lambda: length(ScheduleConfig("cosine"), -1),
            "model.schedule.shape cosine: the run has no known length; set trainer.max_steps or",
        ),
        (
            lambda: length(ScheduleConfig("linear", total_steps=5), 9),
            "model.schedule.total_steps 5 is less than the run's 9 steps, the last of which would",
        ),
        (
            lambda: length(ScheduleConfig(warmup=0.5), -1),
            "model.schedule.warmup 0.5 is a share of a run that has no known length; give steps",
        ),
        (
            lambda: length(ScheduleConfig(warmup=9), 9),
            "model.schedule.warmup 9 is no less than the run's 9 steps: the full rate",
        ),
        (
            lambda: refuse_short(OneCycleLR(optimizer(), 0.1, total_steps=5), 9),
            "model.lr_scheduler.total_steps 5 is less than the run's 9 steps, and OneCycleLR",
        ),
    ],
)
def test_what_is_no_schedule_of_the_run_is_refused(make, message: str) -> None:
    with pytest.raises(ElfError) as error:
        make()
    assert str(error.value).startswith(message)


def test_the_options_of_a_schedule_of_torchs() -> None:
    assert options(CosineAnnealingLR(optimizer(), T_max=7, eta_min=0.1)) == {
        "T_max": 7,
        "eta_min": 0.1,
    }
