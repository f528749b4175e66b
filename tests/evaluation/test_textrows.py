"""The rows of text on figures that can be counted by hand."""

import math

import pytest

from elf.evaluation.plan import Variant
from elf.evaluation.rows import weight_rows
from elf.evaluation.schema import Row
from elf.evaluation.textrows import (
    Documents,
    answer_rows,
    change_rows,
    document_rows,
    old_answer_rows,
    old_document_rows,
)
from elf.language.validation import DocumentErrors

SAID = {"base": ["no", "red", "a b", "x"], "elf × 1": ["yes", "red", "a c", "x"]}
REFERENCES = ["yes", "red ", "a b", None]
NONE = Documents({}, [], "none; give some")


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_the_share_of_answers_that_changed() -> None:
    (row,) = change_rows(SAID, "greedy")
    assert (row.base, row.adapter, row.pictures, row.note) == (None, 0.5, 4, "greedy")
    (missing,) = change_rows({"base": [], "elf × 1": []}, "")
    assert missing.skipped and missing.note == "skipped: no prompts; give data.prompts"


def test_answers_with_a_reference_are_right_or_wrong() -> None:
    rows = by_name(answer_rows(SAID, REFERENCES))
    right = rows["exact_match"]
    assert (right.base, right.adapter) == (2 / 3, 2 / 3)
    assert right.difference is not None and right.difference.mean == 0
    assert right.pictures == 3 and right.needed == 40 and right.indicative
    assert right.over_half is not None
    assert rows["rouge_l"].base == pytest.approx(2 / 3)
    assert rows["rouge_l"].adapter == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert rows["bleu"].base == 0  # no four words in a row
    assert {row.better for row in rows.values()} == {"higher"}


def test_bleu_is_of_all_answers_together() -> None:
    text = "the cat is on the mat"
    row = by_name(answer_rows({"base": [text[:-3] + "rug"], "elf × 1": [text]}, [text]))["bleu"]
    assert row.adapter == pytest.approx(1) and row.base == pytest.approx(
        (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    )
    assert row.difference is not None and row.difference.low is None  # one prompt


def test_without_references_rows_say_what_they_need() -> None:
    rows = answer_rows(SAID, [None] * 4)
    assert {row.name for row in rows} == {"exact_match", "rouge_l", "bleu"}
    assert rows[0].note == "skipped: no references; give data.prompts rows with `reference`"
    (old,) = old_answer_rows({"base": []}, [])
    assert old.note == "skipped: give data.forgetting rows with `reference`"


def test_perplexity_bits_and_accuracy_by_hand() -> None:
    """Tokens that cost ln 4 each, and then ln 2: two bits and one, in half as many bytes."""
    four, two = math.log(4), math.log(2)
    documents = Documents(
        {
            "base": [DocumentErrors(2 * four, 2, 0), DocumentErrors(6 * four, 6, 3)],
            "elf × 1": [DocumentErrors(2 * two, 2, 1), DocumentErrors(6 * two, 6, 6)],
        },
        [4, 12],
    )
    rows = by_name(document_rows(documents, NONE))
    perplexity, ratio = rows["perplexity"], rows["perplexity_ratio"]
    assert (perplexity.base, perplexity.adapter) == pytest.approx((4, 2))
    assert perplexity.note == "of 8 tokens in 2 documents" and perplexity.difference is None
    assert ratio.adapter == pytest.approx(0.5) and ratio.base == 1
    assert ratio.difference is not None
    assert ratio.difference.low == ratio.difference.high == pytest.approx(-0.5)  # each halves
    bits = rows["bits_per_byte"]
    assert (bits.base, bits.adapter) == pytest.approx((1, 0.5)) and bits.better == "lower"
    assert bits.note == "16 bytes of UTF-8"
    right = rows["token_accuracy"]
    assert (right.base, right.adapter) == (3 / 8, 7 / 8)
    assert right.difference is not None and right.difference.mean == 0.5
    assert rows["trained_perplexity_ratio"].note == "skipped: none; give some"
    trained = by_name(document_rows(documents, documents))["trained_perplexity_ratio"]
    assert trained.adapter == pytest.approx(0.5)
    old = by_name(old_document_rows(documents))
    assert set(old) == {"forgetting_perplexity", "forgetting_perplexity_ratio"}


def test_without_documents_rows_say_what_they_need() -> None:
    rows = document_rows(NONE, NONE) + old_document_rows(NONE)
    assert len(rows) == 6 and {row.note for row in rows} == {"skipped: none; give some"}


def test_each_variant_has_its_own_size() -> None:
    variants = [Variant("base"), Variant("elf × 0.5", 0, 0.5), Variant("elf × 1", 0, 1.0)]
    rows = weight_rows({"elf × 0.5": 0.1, "elf × 1": 0.2}, variants)
    assert [(row.variant, row.adapter) for row in rows] == [("elf × 0.5", 0.1), ("elf × 1", 0.2)]
