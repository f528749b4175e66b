"""The nearest reference against a loop, and the share of copies by hand."""

import numpy as np
import pytest

from elf.errors import ElfError
from elf.metrics import SSCD_COPY, copies, nearest_references, share_of_copies


def test_nearest_by_hand() -> None:
    references = np.array([[1.0, 0], [0, 1], [-2, 0]])
    pictures = np.array([[0.0, 5], [-1, 0.1], [3, 4]])
    nearest = nearest_references(pictures, references)
    assert nearest.index.tolist() == [1, 2, 1]
    assert nearest.similarity == pytest.approx([1, 1 / np.sqrt(1.01), 0.8])


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    pictures, references = random.normal(size=(7, 5)), random.normal(size=(4, 5))
    monkeypatch.setattr(copies, "BLOCK", block)
    nearest = nearest_references(pictures, references)
    assert len(nearest.index) == len(nearest.similarity) == 7
    for picture, index, similarity in zip(pictures, nearest.index, nearest.similarity, strict=True):
        cosines = [picture @ r / np.linalg.norm(picture) / np.linalg.norm(r) for r in references]
        assert index == np.argmax(cosines)
        assert similarity == pytest.approx(max(cosines))


def test_of_equal_references_the_first_is_the_nearest() -> None:
    nearest = nearest_references(np.ones((1, 2)), np.array([[1.0, 0], [1, 1], [1, 1]]))
    assert nearest.index.tolist() == [1]


def test_the_threshold_itself_is_a_copy() -> None:
    assert SSCD_COPY == 0.75
    assert share_of_copies(np.array([[0.75, 0.7499], [0.9, -1.0]])) == 0.5
    assert share_of_copies(np.array([0.75, 0.7499, 0.9, -1.0]), threshold=0.8) == 0.25


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ElfError, match=r"^copies: there is no picture to compare; generate"):
        share_of_copies(np.array([]))
    with pytest.raises(ElfError, match=r"^references: there are no embeddings"):
        nearest_references(np.ones((1, 2)), np.ones((0, 2)))


def test_a_picture_that_cannot_be_used_is_named() -> None:
    with pytest.raises(ElfError, match=r"^pictures: the embedding of row 0 holds NaN"):
        nearest_references(np.full((1, 2), np.nan), np.ones((1, 2)))
