"""A hash bears what does not change a picture, and tells pictures apart."""

import numpy as np
import pytest
from PIL import Image

from elf.curation.likeness import LOOSE
from elf.curation.perceptual import (
    BITS,
    as_vectors,
    content,
    distance,
    least_product,
    mirrored,
    perceptual_hash,
    shrunk,
)
from elf.curation.policy import DISTANCE

SEEDS = range(10)


def hashed(image):
    found = perceptual_hash(np.asarray(image.convert("L")))
    assert found is not None
    return found


def test_copies_are_near(scene, same):
    bits = [int(distance(hashed(scene(n)), hashed(same(scene(n))))) for n in SEEDS]
    assert max(bits) <= DISTANCE, bits


def test_edited_copies_come_into_question(scene, nearly):
    bits = [int(distance(hashed(scene(n)), hashed(nearly(scene(n))))) for n in SEEDS]
    assert np.mean(np.array(bits) <= LOOSE) >= 0.9, bits


def test_other_pictures_are_far(scene):
    hashes = np.array([hashed(scene(n)) for n in range(40)])
    i, j = np.triu_indices(40, 1)
    assert distance(hashes[i], hashes[j]).min() > LOOSE


def test_a_mirror_turns_the_odd_columns(scene):
    for seed in SEEDS:
        turned = scene(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert distance(mirrored(hashed(scene(seed))[None])[0], hashed(turned)) <= 1
        assert distance(hashed(scene(seed)), hashed(turned)) > LOOSE


@pytest.mark.parametrize("level", [0, 7, 255])
def test_an_even_picture_has_no_hash(level):
    gray = np.full((40, 60), level, np.uint8)
    assert perceptual_hash(gray) is None
    gray[::2] = min(255, level + 2)  # grain is no sign either
    assert perceptual_hash(gray) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 5)])
def test_tiny_pictures_do_not_matter(size):
    gray = np.arange(size[0] * size[1]).reshape(size).astype(np.uint8)
    assert shrunk(gray, 48).shape == (48, 48)
    assert perceptual_hash(gray) is None or perceptual_hash(gray).shape == (32,)


def test_products_of_vectors_are_distances(scene):
    hashes = np.array([hashed(scene(n)) for n in range(12)] + [np.zeros(32, np.uint8)])
    valid = np.arange(13) < 12
    vectors = as_vectors(hashes, valid)
    i, j = np.triu_indices(12, 0)
    bits = distance(hashes[i], hashes[j])
    products = (vectors @ vectors.T)[i, j]
    np.testing.assert_allclose(products, 1 - 2 * bits / BITS, atol=1e-5)
    for reach in (0, 20, 80, 127):
        np.testing.assert_array_equal(products >= least_product(reach), bits <= reach)
    assert not vectors[12].any()


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_an_even_border_is_no_content(scene, colour):
    inner = np.asarray(scene(3).convert("L"))
    inner = np.where(np.abs(inner.astype(int) - colour) < 40, np.uint8(colour // 2 + 60), inner)
    framed = np.full((inner.shape[0] + 60, inner.shape[1] + 25), colour, np.uint8)
    framed[20:-40, 5:-20] = inner
    np.testing.assert_array_equal(content(framed), inner)


def test_what_has_no_border_stays(scene):
    gray = np.asarray(scene(4).convert("L"))
    assert content(gray).shape == gray.shape
    dot = np.full((80, 80), 255, np.uint8)
    dot[40:44, 40:44] = 0  # nearly nothing: no picture of its own
    assert content(dot).shape == dot.shape
    assert content(np.full((9, 9), 5, np.uint8)).shape == (9, 9)
