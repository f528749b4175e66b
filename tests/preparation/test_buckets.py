import math
import random

import numpy as np
import pytest

from elf.errors import ElfError
from elf.preparation.buckets import (
    NoBucket,
    assign,
    lost_areas,
    make_buckets,
    place,
    place_without_upscaling,
)

# --- kohya's procedure, written down once more -------------------------------------------------


def kohyas_buckets(resolution, step, shortest, longest):
    sizes = {(resolution // step * step,) * 2}
    for width in np.arange(shortest, longest + 1, step).tolist():
        height = min(longest, int(resolution * resolution / width / step) * step)
        if height >= shortest:
            sizes.update([(width, height), (height, width)])
    return sorted(sizes)


def kohyas_choice(size, buckets):
    """The bucket, and the size that the picture is resized to before the crop."""
    ratio = size[0] / size[1]
    ratios = np.array([width / height for width, height in buckets])
    bucket = size if size in buckets else buckets[int(np.abs(ratios - ratio).argmin())]
    wider = ratio > bucket[0] / bucket[1]
    scale = bucket[1] / size[1] if wider else bucket[0] / size[0]
    return bucket, tuple(int(side * scale + 0.5) for side in size)


def kohyas_choice_without_upscaling(size, resolution, step):
    """The same with bucket_no_upscale; a ZeroDivisionError and empty sides as it has them."""

    def steps(side):
        side = int(side + 0.5)
        return side - side % step

    (width, height), area = size, resolution * resolution
    ratio = width / height
    if width * height > area:
        ideal = math.sqrt(area * ratio)
        first = steps(ideal)
        second = steps(area / ideal)
        kept_width = first / steps(first / ratio)
        kept_height = steps(second * ratio) / second
        if abs(kept_width - ratio) < abs(kept_height - ratio):
            width, height = first, int(first / ratio + 0.5)
        else:
            width, height = int(second * ratio + 0.5), second
    return (width - width % step, height - height % step), (width, height)


def random_sizes(count, seed=0):
    """Sizes of 1 to 6,000 px a side, small and long ones too."""
    draw = random.Random(seed)
    return [tuple(round(2 ** draw.uniform(0, 12.55)) for _ in range(2)) for _ in range(count)]


@pytest.mark.parametrize("resolution", [512, 768, 1024])
def test_pictures_land_where_kohyas_scripts_put_them(resolution):
    shortest, longest = resolution // 2, 2 * resolution
    expected = kohyas_buckets(resolution, 64, shortest, longest)
    buckets = make_buckets(resolution)
    assert buckets == expected
    for size in random_sizes(2000, resolution) + expected:
        placed, (bucket, resized) = place(size, buckets), kohyas_choice(size, expected)
        assert placed.bucket == bucket
        # its rounding may leave a picture a pixel short of its bucket, which it then stretches
        assert placed.resized == tuple(map(max, zip(resized, bucket, strict=True)))


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (1024, 64), (1024, 32), (96, 8)])
def test_without_upscaling_they_land_there_too_or_are_refused_where_it_dies(resolution, step):
    refused = 0
    for size in random_sizes(2000, step):
        try:
            bucket, resized = kohyas_choice_without_upscaling(size, resolution, step)
        except ZeroDivisionError:
            bucket = (0, 0)
        try:
            placed = place_without_upscaling(size, resolution, step)
        except NoBucket:
            assert not all(bucket)
            refused += 1
            continue
        assert math.prod(placed.bucket) > 0 and not [s for s in placed.bucket if s % step]
        assert all(a >= b >= c for a, b, c in zip(size, placed.resized, placed.bucket, strict=True))
        if all(bucket):
            assert (placed.bucket, placed.resized) == (bucket, resized)
    assert 100 < refused < 1900


def test_without_upscaling_small_pictures_keep_their_size():
    placed = place_without_upscaling((500, 300), 512, 64)
    assert placed.resized == (500, 300) and placed.bucket == (448, 256)
    assert placed.crop == (26, 22)
    assert math.isclose(placed.loss, 1 - 448 * 256 / (500 * 300))
    # neither the shortest nor the longest side counts: at 512 they are 256 and 1024
    assert place_without_upscaling((2048, 100), 512, 64).bucket == (2048, 64)


def test_without_upscaling_what_is_smaller_than_a_step_is_refused_with_its_size():
    with pytest.raises(
        NoBucket, match=r"^63×500 px: a side is shorter than data\.bucket_step 64, "
    ):
        place_without_upscaling((63, 500), 512, 64)
    with pytest.raises(
        NoBucket, match=r"^60000×70 px, at the wanted area 14990×17: a side is shorter than data"
    ):
        place_without_upscaling((60_000, 70), 512, 64)


def test_the_area_that_a_longest_side_costs_is_told():
    full, trap = make_buckets(1024), make_buckets(1024, max_side=1024)
    portraits = [(1080, 1920), (1000, 1500), (1024, 1024), (1000, 1040)]
    # of 9:16 and 2:3, which train at 576×1024 and 704×1024
    assert lost_areas(portraits, trap, full) == pytest.approx([0.4286, 0.2874], abs=1e-3)
    assert lost_areas(portraits, full, full) == []


# --- Elf's own --------------------------------------------------------------------------------


def test_buckets_at_512_are_the_known_ones():
    buckets = make_buckets(512)
    assert len(buckets) == 17
    assert buckets[0] == (256, 832) and buckets[-1] == (1024, 256)
    assert {(512, 512), (448, 576), (768, 320), (384, 640)} <= set(buckets)
    assert buckets == sorted(buckets)


def test_portraits_at_1024_keep_their_area():
    sizes = make_buckets(1024)
    assert (512, 2048) in sizes
    trap = make_buckets(1024, max_side=1024)  # what a fixed maximum of 1024 px does
    assert assign((1000, 2000), trap) == (512, 1024)
    assert assign((1000, 2000), sizes) == (704, 1408)


@pytest.mark.parametrize(("resolution", "step"), [(64, 8), (64, 16), (96, 32), (512, 64), (768, 8)])
def test_buckets_are_whole_steps_within_area_and_come_in_both_orientations(resolution, step):
    buckets = make_buckets(resolution, step)
    assert (resolution // step * step,) * 2 in buckets
    for width, height in buckets:
        assert width % step == height % step == 0 and width * height <= resolution**2
        assert (height, width) in buckets


def test_limits_are_rounded_outwards_to_the_step():
    sides = {side for size in make_buckets(512, 64, min_side=300, max_side=900) for side in size}
    assert min(sides) == 256 and max(sides) == 960


def test_an_exact_bucket_size_wins_over_the_nearest_ratio():
    buckets = [(256, 512), (320, 640)]  # the same ratio
    assert assign((320, 640), buckets) == (320, 640)
    assert assign((100, 200), buckets) == (256, 512)


def test_the_nearest_ratio_is_linear_not_logarithmic():
    buckets = [(1, 2), (1, 1)]
    # ratios 0.5 and 1: the linear middle is 0.75, the logarithmic one 0.707; 0.73 tells them apart
    assert assign((73, 100), buckets) == (1, 2)


def test_a_placed_picture_covers_its_bucket_and_the_crop_is_centred():
    buckets, draw = make_buckets(64, 8), random.Random(0)
    for _ in range(2000):
        size = (draw.randint(1, 4000), draw.randint(1, 4000))
        placed = place(size, buckets)
        for side in range(2):
            margin = placed.resized[side] - placed.bucket[side]
            assert margin >= 0 and placed.crop[side] == margin // 2
        assert math.isclose(placed.loss, 1 - math.prod(placed.bucket) / math.prod(placed.resized))


def test_no_crop_where_the_picture_has_the_ratio_of_its_bucket():
    placed = place((2000, 1000), [(128, 64), (64, 64)])
    assert placed.resized == (128, 64) and placed.crop == (0, 0) and placed.loss == 0


def test_impossible_settings_are_refused():
    with pytest.raises(ElfError, match=r"data.resolution 32 is smaller than data.bucket_step 64"):
        make_buckets(32, 64)
    with pytest.raises(ElfError, match=r"data.min_side 600 and data.max_side 1024 must enclose"):
        make_buckets(512, 64, min_side=600)
