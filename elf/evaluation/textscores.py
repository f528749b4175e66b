"""How an answer compares with what was expected: exactly, by its longest words in order, by BLEU.

Shapes: P prompts.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from elf.metrics.bleu import COLUMNS

Scores = npt.NDArray[np.float64]

WORD = re.compile(r"\w+")


def exact(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Return 1 for an answer that is its reference, but for white space at its ends; else 0 (P)."""
    pairs = zip(answers, references, strict=True)
    return np.array([answer.strip() == reference.strip() for answer, reference in pairs], float)


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Return ROUGE-L's F of each answer, from 0 to 1 (P).

    The longest words in common, in their order, as a share of both (Lin 2004). torchmetrics counts;
    its own words are of a–z alone, so that others' alphabets would have none.
    """
    from torchmetrics.functional.text import rouge_score

    found = [
        rouge_score(
            answer, reference, rouge_keys="rougeL", normalizer=str.lower, tokenizer=WORD.findall
        )["rougeL_fmeasure"].item()
        for answer, reference in zip(answers, references, strict=True)
    ]
    return np.array(found, float)


def bleu_counts(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Return what BLEU counts of each answer (P, 10), of which ``elf.metrics.bleu`` makes one.

    Words are those of sacreBLEU's ``13a`` (Post 2018); torchmetrics counts.
    """
    from torchmetrics.text import SacreBLEUScore

    found = np.zeros((len(answers), COLUMNS))
    metric = SacreBLEUScore(tokenize="13a")
    for place, (answer, reference) in enumerate(zip(answers, references, strict=True)):
        metric.reset()
        metric.update([answer], [[reference]])
        found[place] = [
            *metric.numerator.tolist(),
            *metric.denominator.tolist(),
            float(metric.preds_len),
            float(metric.target_len),
        ]
    return found
