"""BLEU by hand."""

import numpy as np
import pytest

from elf.metrics import bleu


def test_by_hand() -> None:
    """``the cat is on a mat`` for ``the cat is on the mat``."""
    counts = np.array([[5.0, 3, 2, 1, 6, 5, 4, 3, 6, 6]])
    assert bleu(counts) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_what_is_too_short_is_punished() -> None:
    counts = np.array([[4.0, 3, 2, 1, 4, 3, 2, 1, 4, 8]])
    assert bleu(counts) == pytest.approx(np.exp(1 - 8 / 4))


def test_prompts_are_counted_together() -> None:
    one = np.array([4.0, 3, 2, 1, 4, 3, 2, 1, 4, 4])
    none = np.array([0.0, 0, 0, 0, 4, 3, 2, 1, 4, 4])
    assert bleu(np.stack([one, one])) == 1.0
    assert bleu(np.stack([one, none])) == pytest.approx(0.5)
    assert bleu(none[None]) == 0.0
    assert bleu(np.zeros((1, 10))) == 0.0
