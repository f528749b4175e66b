"""Diversity against numbers by hand and pairs in a loop."""

from itertools import combinations

import numpy as np
import pytest

from elf.errors import ElfError
from elf.metrics import diversity


def test_diversity_by_hand() -> None:
    equal = [[1.0, 0], [2, 0], [3, 0]]
    mixed = [[1.0, 0], [0, 1], [-1, 0]]  # 1 − cosine: 1, 2, 1
    assert diversity(np.array([equal, mixed])) == pytest.approx([0, 4 / 3], abs=1e-15)


def test_diversity_is_the_mean_over_pairs_of_seeds() -> None:
    pictures = np.random.default_rng(0).normal(size=(3, 5, 7))
    expected = [
        np.mean(
            [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(seeds, 2)]
        )
        for seeds in pictures
    ]
    np.testing.assert_allclose(diversity(pictures), expected)


def test_diversity_does_not_grow_with_the_number_of_seeds() -> None:
    pictures = np.random.default_rng(1).normal(size=(4000, 8, 4)) + 1
    few, many = diversity(pictures[:, :2]).mean(), diversity(pictures).mean()
    assert few == pytest.approx(many, rel=0.03)


def test_one_seed_is_refused() -> None:
    with pytest.raises(ElfError, match=r"^diversity: one seed a prompt .*; take 2 or more$"):
        diversity(np.ones((3, 1, 4)))


def test_a_picture_that_cannot_be_used_is_named() -> None:
    pictures = np.ones((2, 2, 3))
    pictures[1, 0, 0] = np.nan
    with pytest.raises(ElfError, match=r"^pictures: the embedding of row 1, 0 "):
        diversity(pictures)
