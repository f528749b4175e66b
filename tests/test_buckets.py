import math
import random

import pytest

from elf.buckets import assign, make_buckets, place
from elf.errors import ElfError


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
