"""Pictures laid over each other: one and the same, but for what was cut off or added."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from elf.curation.alignment import align, differences, same_picture
from elf.curation.perceptual import GRAY, content, shrunk


def grays(images):
    found = [shrunk(content(np.asarray(image.convert("L"))), GRAY) for image in images]
    return np.array(found, np.float32)


def test_an_edited_copy_is_the_same_picture(scene, nearly):
    originals = [scene(n) for n in range(12)]
    found = same_picture(grays(originals), grays([nearly(i) for i in originals]))
    assert found.mean() >= 0.9, found


def test_a_copy_is_the_same_picture(scene, same):
    originals = [scene(n) for n in range(12)]
    assert same_picture(grays(originals), grays([same(i) for i in originals])).mean() >= 0.9


def test_other_pictures_are_not(scene):
    pictures = grays([scene(n) for n in range(12)])
    i, j = np.nonzero(~np.eye(12, dtype=bool))
    assert not same_picture(pictures[i], pictures[j]).any()


def test_other_pictures_of_one_outline_are_not(scene):
    """A bust on white: what is inside of the outline decides."""

    def bust(image):
        canvas = Image.new("RGB", (300, 300), "white")
        mask = Image.new("L", (300, 300))
        ImageDraw.Draw(mask).ellipse((90, 60, 210, 260), fill=255)
        canvas.paste(image.resize((300, 300)), (0, 0), mask)
        return canvas

    pictures = grays([bust(scene(n)) for n in range(12)])
    i, j = np.nonzero(~np.eye(12, dtype=bool))
    assert not same_picture(pictures[i], pictures[j]).any()
    again = grays([bust(scene(n)).resize((200, 200)) for n in range(12)])
    assert same_picture(pictures, again).all()


@pytest.mark.parametrize("crop", [(0.1, 0, 0, 0), (0, 0.08, 0.04, 0), (0.05, 0.05, 0.05, 0.05)])
def test_the_warp_is_found(scene, crop):
    left, top, right, bottom = crop
    whole = [scene(n) for n in range(8)]
    w, h = whole[0].size
    box = (left * w, top * h, w - right * w, h - bottom * h)
    part = [image.resize(image.size, Image.Resampling.BICUBIC, box=box) for image in whole]
    small = [
        np.array([shrunk(np.asarray(i.convert("L")), GRAY) for i in images], np.float32)
        for images in (part, whole)
    ]
    warp = align(*small)
    scale = np.array([1 - left - right, 1 - top - bottom])
    shift = np.array([left - right, top - bottom])
    error = np.abs(warp - np.concatenate([scale, shift]))
    assert np.median(error.max(1)) < 0.02 and (error.max(1) < 0.04).mean() >= 0.75


def test_brightness_and_contrast_are_fitted(scene):
    a = grays([scene(n) for n in range(6)])
    still = np.tile(np.array([1, 1, 0, 0], np.float32), (6, 1))
    different, seen = differences(a, 0.5 * a + 60, still)
    assert different.max() == 0 and seen.min() > 0.1
    different, _ = differences(a, a[::-1], still)
    assert different.min() > 0.3


def test_where_nothing_is_seen_nothing_is_the_same():
    even = np.full((3, GRAY, GRAY), 200, np.float32)
    even[1] += np.linspace(0, 30, GRAY)
    even[2, 5, 5] = 0
    assert not same_picture(even, even).any()
