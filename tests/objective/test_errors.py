"""Errors and masks against their formulas on numbers."""

import math

import pytest
import torch

from elf.errors import ElfError
from elf.objective import HuberConfig, ObjectiveConfig, reduce_error, training_error

ALPHAS = torch.tensor([0.9, 0.5, 0.2])  # SNR 9, 1, 0.25


def test_squared_error_is_float32() -> None:
    prediction = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    error = training_error("mse", prediction, torch.zeros(1, 1, 1, 1))
    assert error.item() == 90000.0  # beyond float16


def test_huber_errors_by_hand() -> None:
    d = torch.tensor([0.003, 3.0]).view(2, 1, 1, 1)
    zero, c = torch.zeros(2, 1, 1, 1), torch.tensor([0.1, 0.1])
    root = [math.sqrt(value**2 + 0.01) - 0.1 for value in (0.003, 3.0)]
    huber = training_error("huber", d, zero, c).flatten()
    assert huber.tolist() == pytest.approx([0.2 * value for value in root], rel=1e-4)
    assert huber[0] == pytest.approx(0.003**2, rel=1e-3)  # quadratic near 0
    assert huber[1] == pytest.approx(2 * 0.1 * 3.0, rel=0.05)  # linear far off
    smooth = training_error("smooth_l1", d, zero, c).flatten()
    assert smooth.tolist() == pytest.approx([2 * value for value in root], rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.1, 0.1, 0.1]),
        ("exponential", [1.0, 0.1 ** (1 / 3), 0.1 ** (2 / 3)]),
        ("snr", [0.9 / (1 + s) ** 2 + 0.1 for s in (1 / 3, 1.0, 2.0)]),
    ],
)
def test_thresholds_by_hand(schedule: str, wanted: list[float]) -> None:
    found = HuberConfig(0.1, schedule).thresholds(torch.arange(3), ALPHAS)
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_threshold_at_no_signal_is_c() -> None:
    found = HuberConfig(0.1, "snr").thresholds(torch.tensor([0]), torch.tensor([0.0]))
    assert found.item() == pytest.approx(0.1)


def test_masks_by_hand() -> None:
    error = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2).expand(2, 3, 2, 2)
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.5]]])
    assert reduce_error(error).tolist() == [2.5, 2.5]
    assert reduce_error(error, mask).tolist() == [0.25, 2.0]
    assert reduce_error(error, mask, outside=0.5).tolist() == [(1 + 4.5) / 4, (6 + 3.0) / 4]
    assert reduce_error(error, mask, by_area=True).tolist() == pytest.approx([1.0, 8 / 3.5])


def test_a_mask_of_nothing_counts_nothing() -> None:
    error, mask = torch.ones(1, 4, 2, 2), torch.zeros(1, 2, 2)
    assert reduce_error(error, mask, by_area=True).tolist() == [0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ObjectiveConfig(huber=HuberConfig(0.0)),
            "huber.c 0.0 must be above 0, and at most 1",
        ),
        (
            lambda: ObjectiveConfig(min_snr_gamma=0.0),
            "min_snr_gamma 0.0 must be above 0; to switch it off take weighting: none",
        ),
        (lambda: ObjectiveConfig(noise_offset=-1.0), "noise_offset -1.0 is negative; 0 is off"),
        (
            lambda: ObjectiveConfig(input_perturbation=-1.0),
            "input_perturbation -1.0 is negative; 0 is off",
        ),
        (lambda: ObjectiveConfig(unmasked_weight=2.0), "unmasked_weight 2.0 must be from 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ElfError) as error:
        make()
    assert str(error.value) == f"model.objective.{message}"
