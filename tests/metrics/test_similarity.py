"""Similarities against cosines in a loop and by hand."""

import math

import numpy as np
import pytest

from elf.errors import ElfError
from elf.metrics import similarity_to_references, similarity_to_texts


def test_similarity_to_references_is_the_mean_of_all_cosines() -> None:
    random = np.random.default_rng(0)
    pictures, references = random.normal(size=(5, 7)), random.normal(size=(3, 7))
    expected = [
        np.mean([p @ r / (np.linalg.norm(p) * np.linalg.norm(r)) for r in references])
        for p in pictures
    ]
    np.testing.assert_allclose(similarity_to_references(pictures, references), expected)


def test_similarity_to_texts_pairs_rows() -> None:
    pictures, texts = np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 0], [1, 1]])
    assert similarity_to_texts(pictures, texts) == pytest.approx([1, math.sqrt(0.5)])


def test_the_side_that_cannot_be_used_is_named() -> None:
    good, bad = np.ones((2, 3)), np.array([[1.0, 0, 0], [0, np.nan, 0]])
    with pytest.raises(ElfError, match=r"^pictures: the embedding of row 1 "):
        similarity_to_references(bad, good)
    with pytest.raises(ElfError, match=r"^references: the embedding of row 1 "):
        similarity_to_references(good, bad)
    with pytest.raises(ElfError, match=r"^texts: the embedding of row 1 "):
        similarity_to_texts(good, bad)
