"""The validation loss: means by id, whatever brought the pictures together, and their interval."""

import math

import numpy as np
import pytest
from scipy import stats

from elf.training.validation import PictureErrors, ValidationRun, ratio_of_means
from elf.training.validationsets import HELD_OUT, TRAINED

RANDOM = np.random.default_rng(0)
IDS = [f"{number:016x}" for number in range(9)]
BASE = RANDOM.random((9, 8)).astype(np.float32) + 0.5
ADAPTER = (BASE * 0.9 + RANDOM.random((9, 8)) * 0.1).astype(np.float32)


def collected(order: np.ndarray, size: int) -> dict[str, float]:
    errors = PictureErrors()
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        errors.add([IDS[place] for place in chosen], ADAPTER[chosen], BASE[chosen])
    return errors.metrics("val")


def test_neither_order_nor_batches_nor_doubles_change_a_bit() -> None:
    reference = collected(np.arange(9), 9)
    doubled = np.concatenate([RANDOM.permutation(9), [3, 3]])
    assert collected(doubled, 2) == reference
    assert reference["val/loss"] == pytest.approx(ADAPTER.mean(dtype=np.float64), abs=1e-12)
    assert reference["val/loss_stratum_3"] == pytest.approx(ADAPTER[:, 3].mean(dtype=np.float64))


def test_shares_of_processes_come_together() -> None:
    one, other = PictureErrors(), PictureErrors()
    one.add(IDS[:4], ADAPTER[:4], BASE[:4])
    other.add(IDS[3:], ADAPTER[3:], BASE[3:])
    one.update([other])
    assert len(one) == 9
    assert one.metrics("val") == collected(np.arange(9), 9)


def test_the_ratio_is_of_means_with_an_interval_over_pictures() -> None:
    found = ratio_of_means(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0]))
    assert found.mean == pytest.approx(0.75)
    residual = np.array([1 - 1.5, 2 - 1.5, 3 - 3.0])
    error = residual.std(ddof=1) / math.sqrt(3) / (8 / 3)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_the_interval_covers_the_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        base = random.lognormal(0, 0.4, 20)
        found = ratio_of_means(base * (0.9 + 0.1 * random.standard_normal(20)), base)
        covered += found.low <= 0.9 <= found.high
    assert 0.92 < covered / 2000 < 0.97


def test_one_picture_has_no_interval() -> None:
    found = ratio_of_means(np.array([1.0]), np.array([2.0]))
    assert found.mean == 0.5
    assert math.isnan(found.low)


def test_the_gap_is_between_new_and_trained_pictures() -> None:
    run = ValidationRun()
    run.sets[HELD_OUT].add(["a"], np.array([[0.9]]), np.array([[1.0]]))
    assert "val/gap" not in run.metrics()
    run.sets[TRAINED].add(["b"], np.array([[0.6]]), np.array([[1.0]]))
    metrics = run.metrics()
    assert metrics["val/gap"] == pytest.approx(0.3)
    assert metrics["val_trained/ratio"] == pytest.approx(0.6)
    assert "val_trained/loss_stratum_0" not in metrics
