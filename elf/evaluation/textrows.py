"""The rows of the report's table, from answers and from the errors of documents.

Shapes: P prompts, D documents.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from elf.evaluation.plan import BASE
from elf.evaluation.rows import compared, difference, skipped
from elf.evaluation.schema import Difference, Row
from elf.evaluation.textscores import bleu_counts, exact, rouge_l
from elf.language.validation import DocumentErrors, mean_error, perplexity_ratio
from elf.metrics import Interval, bleu, jackknife_difference, ratio_difference

PROMPTS, DOCUMENTS = 40, 20
"""From how many prompts, or documents, metrics can be relied on."""

Answers = Mapping[str, Sequence[str]]
"""Of each prompt (P), by the name of the variant."""
Errors = Mapping[str, Sequence[DocumentErrors]]
"""Of each document (D), likewise."""
Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Documents:
    """What was measured of documents.

    Attributes:
        errors: Of each variant.
        sizes: UTF-8 bytes of what is trained on of each, without control tokens (D).
        why: What is missing, if there are none.
    """

    errors: Errors
    sizes: Sequence[int]
    why: str = ""


def change_rows(answers: Answers, note: str) -> list[Row]:
    """Return which share of the answers is not the base's: did anything change at all?"""
    base = answers[BASE.name]
    if not base:
        return [skipped("answer_change", "no prompts; give data.prompts")]
    scores = {
        variant: np.array([mine != other for mine, other in zip(found, base, strict=True)], float)
        for variant, found in answers.items()
    }
    return [replace(row, base=None) for row in _shares("answer_change", scores, None, None, note)]


def answer_rows(answers: Answers, references: Sequence[str | None]) -> list[Row]:
    """Return what of the answers is right: exactly, by ROUGE-L, and by BLEU."""
    chosen = [place for place, each in enumerate(references) if each is not None]
    if not chosen:
        why = "no references; give data.prompts rows with `reference`"
        return [skipped(name, why) for name in ("exact_match", "rouge_l", "bleu")]
    expected = [str(references[place]) for place in chosen]
    found = {name: [each[place] for place in chosen] for name, each in answers.items()}
    right = {name: exact(each, expected) for name, each in found.items()}
    common = {name: rouge_l(each, expected) for name, each in found.items()}
    counts = {name: bleu_counts(each, expected) for name, each in found.items()}
    rows = _shares(
        "exact_match", right, PROMPTS, "higher", "white space at the ends aside", kept=True
    )
    rows += _shares("rouge_l", common, PROMPTS, "higher", "F of the longest words in common")
    base = counts[BASE.name]
    for name, table in counts.items():
        if name != BASE.name:
            change = difference(jackknife_difference(bleu, base, table))
            values = bleu(base), bleu(table)
            note = "of all answers together, words as sacreBLEU's 13a has them"
            rows.append(Row("bleu", name, *values, change, len(base), PROMPTS, "higher", note))
    return rows


def old_answer_rows(answers: Answers, references: Sequence[str]) -> list[Row]:
    """Return what of the answers that are not to be forgotten is right."""
    if not references:
        return [skipped("forgetting_exact_match", "give data.forgetting rows with `reference`")]
    right = {name: exact(each, references) for name, each in answers.items()}
    note = "white space at the ends aside"
    return _shares("forgetting_exact_match", right, PROMPTS, "higher", note, kept=True)


def _shares(
    name: str, scores: Mapping[str, np.ndarray], needed: int | None, better: Better, note: str,
    kept: bool = False,
) -> list[Row]:  # fmt: skip
    tables = {variant: each[:, None] for variant, each in scores.items()}
    return compared(name, tables, needed, better, note, shares=True, kept=kept)


def document_rows(documents: Documents, trained: Documents) -> list[Row]:
    """Return how likely held-out text is to each variant, and text that was trained on."""
    if not documents.sizes:
        names = ("perplexity", "perplexity_ratio", "bits_per_byte", "token_accuracy")
        return [skipped(name, documents.why) for name in names]
    rows = [*_perplexity_rows("", documents), *_size_rows(documents)]
    if not trained.sizes:
        return [*rows, skipped("trained_perplexity_ratio", trained.why)]
    return [*rows, *_ratio_rows("trained_", trained)]


def old_document_rows(documents: Documents) -> list[Row]:
    """Return how likely text is that is not to be forgotten."""
    if not documents.sizes:
        names = ("forgetting_perplexity", "forgetting_perplexity_ratio")
        return [skipped(name, documents.why) for name in names]
    return _perplexity_rows("forgetting_", documents)


def _perplexity_rows(of: str, documents: Documents) -> list[Row]:
    base = documents.errors[BASE.name]
    tokens = sum(each.tokens for each in base)
    note = f"of {tokens:,} tokens in {len(base)} document{'s' * (len(base) > 1)}"
    rows = [
        Row(f"{of}perplexity", name, _perplexity(base), _perplexity(found), None, len(base),
            DOCUMENTS, "lower", note)
        for name, found in documents.errors.items() if name != BASE.name
    ]  # fmt: skip
    return rows + _ratio_rows(of, documents)


def _ratio_rows(of: str, documents: Documents) -> list[Row]:
    base, rows = documents.errors[BASE.name], []
    for name, found in documents.errors.items():
        if name != BASE.name:
            ratio = perplexity_ratio(found, base)
            change = difference(Interval(ratio.mean - 1, ratio.low - 1, ratio.high - 1))
            note = "paired by document; interval by the delta method"
            rows.append(
                Row(f"{of}perplexity_ratio", name, 1.0, ratio.mean, change, len(base), DOCUMENTS,
                    "lower", note)
            )  # fmt: skip
    return rows


def _perplexity(documents: Sequence[DocumentErrors]) -> float:
    return math.exp(min(mean_error(documents), 700.0))


def _size_rows(documents: Documents) -> list[Row]:
    """Return bits a byte, which other tokenizers can be compared by, and the tokens' accuracy."""
    base = documents.errors[BASE.name]
    sizes = np.array(documents.sizes, float)
    tokens = np.array([each.tokens for each in base], float)
    rows = []
    for name, found in documents.errors.items():
        if name == BASE.name:
            continue
        bits, others = (_column(each, "error") / math.log(2) for each in (base, found))
        right, now = (_column(each, "correct") for each in (base, found))
        if sizes.any():
            note = f"{int(sizes.sum()):,} bytes of UTF-8"
            rows.append(_ratio("bits_per_byte", name, bits, others, sizes, "lower", note))
        rows.append(_ratio("token_accuracy", name, right, now, tokens, "higher", "as in training"))
    return rows


def _ratio(
    name: str, variant: str, base: np.ndarray, adapter: np.ndarray, weights: np.ndarray,
    better: str, note: str,
) -> Row:  # fmt: skip
    change: Difference = difference(ratio_difference(adapter - base, weights))
    values = [float(each.sum() / weights.sum()) for each in (base, adapter)]
    return Row(name, variant, values[0], values[1], change, len(weights), DOCUMENTS, better, note)


def _column(documents: Sequence[DocumentErrors], name: str) -> np.ndarray:
    return np.array([getattr(each, name) for each in documents], float)
