"""What is refused of embeddings, and in which words."""

import numpy as np
import pytest

from elf.errors import ElfError
from elf.metrics import checked, normalise


def test_normalise_works_in_float64() -> None:
    rows = normalise(np.array([[3.0, 4.0]], dtype=np.float16))
    assert rows.dtype == np.float64
    assert rows[0] == pytest.approx([0.6, 0.8])


def test_normalise_takes_prompts_and_seeds() -> None:
    table = np.random.default_rng(0).normal(size=(3, 2, 5))
    np.testing.assert_allclose(np.linalg.norm(normalise(table), axis=-1), np.ones((3, 2)))
    np.testing.assert_array_equal(normalise(table)[2], normalise(table[2]))


def test_checked_widens_and_keeps_the_numbers() -> None:
    narrow = np.array([[3.0, -4.0], [0.0, 0.0]], dtype=np.float32)
    wide = checked(narrow)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide, narrow)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(value: float) -> None:
    rows = np.ones((4, 3))
    rows[2:, 1] = value
    with pytest.raises(ElfError) as caught:
        checked(rows, "pictures")
    assert str(caught.value) == (
        "pictures: the embedding of row 2 holds NaN or infinity; look at that picture, "
        "or let the embedder compute in float32"
    )


def test_a_row_of_a_table_is_named_by_prompt_and_seed() -> None:
    table = np.ones((4, 3, 2))
    table[3, 1] = np.nan
    with pytest.raises(ElfError, match=r"the embedding of row 3, 1 holds NaN"):
        normalise(table)


def test_a_row_without_direction_is_named() -> None:
    with pytest.raises(ElfError, match=r"^embeddings: the embedding of row 1 is all zeros"):
        normalise(np.array([[1.0, 0], [0, 0]]))


def test_no_embeddings_are_refused() -> None:
    with pytest.raises(ElfError, match=r"^references: there are no embeddings; give at least one"):
        checked(np.zeros((0, 5)), "references")
