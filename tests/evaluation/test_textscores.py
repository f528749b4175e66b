"""How answers compare with what was expected, by hand and against torchmetrics."""

import numpy as np
import pytest
from torchmetrics.text import SacreBLEUScore

from elf.evaluation.textscores import bleu_counts, exact, rouge_l
from elf.metrics import bleu

ANSWERS = ["Lumifel nightdil forestthir.", "the cat is on a mat", "", "Grüße an alle"]
REFERENCES = ["Lumifel nightdil forestthir. ", "the cat is on the mat", "yes", "Grüße an sie"]


def test_exact_leaves_out_white_space_at_the_ends_alone() -> None:
    assert exact([*ANSWERS, "Yes"], [*REFERENCES, "yes"]).tolist() == [1, 0, 0, 0, 0]


def test_rouge_l_by_hand() -> None:
    """Of six words five are in order in both; of three two, in any alphabet."""
    assert rouge_l(ANSWERS, REFERENCES) == pytest.approx([1, 5 / 6, 0, 2 / 3])
    assert rouge_l(["b a"], ["a b c"]) == pytest.approx([2 * (1 / 2 * 1 / 3) / (1 / 2 + 1 / 3)])


def test_bleu_counts_by_hand() -> None:
    (found,) = bleu_counts(["the cat is on a mat"], ["the cat is on the mat"])
    assert found.tolist() == [5, 3, 2, 1, 6, 5, 4, 3, 6, 6]
    assert bleu_counts([""], ["yes"])[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_bleu_of_the_counts_is_that_of_torchmetrics() -> None:
    metric = SacreBLEUScore()
    metric.update(ANSWERS, [[each] for each in REFERENCES])
    counts = bleu_counts(ANSWERS, REFERENCES)
    assert counts.shape == (4, 10)
    assert bleu(counts) == pytest.approx(float(metric.compute()), rel=1e-6)
    assert np.isfinite(bleu(counts[1:]))
