"""Drift against numbers by hand."""

import numpy as np
import pytest

from elf.errors import ElfError
from elf.metrics import drift


def test_drift_is_one_minus_the_cosine_of_each_pair() -> None:
    base = np.array([[1.0, 0], [2, 0], [0, 3], [1, 1]])
    adapter = np.array([[5.0, 0], [0, 1], [0, -1], [1, 0]])
    assert drift(base, adapter) == pytest.approx([0, 1, 2, 1 - 0.5**0.5])


def test_equal_pictures_have_not_drifted_at_all() -> None:
    pictures = np.random.default_rng(0).normal(size=(6, 2, 64)).astype(np.float32)
    np.testing.assert_array_equal(drift(pictures, pictures), np.zeros((6, 2)))


def test_a_drift_too_small_for_a_cosine_is_seen() -> None:
    """cos 1e-9 is 1 in float64, whose distance to 1 − 5e-19 it cannot hold."""
    angle = 1e-9
    moved = drift(np.array([[1.0, 0]]), np.array([[np.cos(angle), np.sin(angle)]]))
    assert moved[0] == pytest.approx(5e-19, rel=1e-6)


def test_the_side_that_cannot_be_used_is_named() -> None:
    good, bad = np.ones((1, 2, 3)), np.full((1, 2, 3), np.nan)
    with pytest.raises(ElfError, match=r"^base's pictures: the embedding of row 0, 0 "):
        drift(bad, good)
    with pytest.raises(ElfError, match=r"^adapter's pictures: the embedding of row 0, 0 "):
        drift(good, bad)
