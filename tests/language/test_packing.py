import random
import time

import numpy as np
import pytest

from elf.errors import ElfError
from elf.language.packing import length_buckets, pack


def lognormal(count, capacity, seed=0):
    lengths = np.random.default_rng(seed).lognormal(5.5, 1.0, count)
    return np.clip(lengths, 1, capacity).astype(np.int64)


@pytest.mark.parametrize("seed", range(100))
def test_each_document_is_in_one_bin_and_no_bin_is_over_full(seed):
    draw = random.Random(seed)
    capacity = draw.choice([1, 2, 7, 64, 1000])
    lengths = [draw.randint(1, capacity) for _ in range(draw.choice([0, 1, 2, 50, 400]))]
    bins = pack(lengths, capacity)
    found = [bins[number].tolist() for number in range(len(bins))]
    assert sorted(place for each in found for place in each) == list(range(len(lengths)))
    assert all(each == sorted(each) and each for each in found)
    sizes = [sum(lengths[place] for place in each) for each in found]
    assert max(sizes, default=0) <= capacity
    assert bins.sizes(lengths).tolist() == sizes
    # best fit leaves no two bins that would fit into one
    assert sum(sorted(sizes)[:2]) > capacity or len(sizes) < 2
    again = pack(np.array(lengths, np.uint16), capacity)
    assert again.documents.tolist() == bins.documents.tolist()
    assert again.starts.tolist() == bins.starts.tolist()


def test_bins_by_hand():
    bins = pack([5, 3, 3, 6, 4, 1, 2], 8)
    # 6 opens one, 5 another, 4 a third; 3 fits best behind 5, 3 behind 4, 2 behind 6, 1 behind 4+3
    assert [bins[number].tolist() for number in range(3)] == [[3, 6], [0, 1], [2, 4, 5]]
    assert bins.fullness([5, 3, 3, 6, 4, 1, 2], 8) == 1.0
    assert pack([], 8).fullness([], 8) == 1.0
    with pytest.raises(IndexError):
        bins[3]


@pytest.mark.parametrize("capacity", [1024, 8192])
def test_a_realistic_distribution_is_packed_almost_full(capacity):
    lengths = lognormal(20_000, capacity)
    assert pack(lengths, capacity).fullness(lengths, capacity) > 0.98


@pytest.mark.slow
def test_a_million_documents_take_seconds():
    lengths = lognormal(1_000_000, 8192)
    start = time.monotonic()
    assert pack(lengths, 8192).fullness(lengths, 8192) > 0.999
    assert time.monotonic() - start < 20


def test_buckets_hold_the_lengths_up_to_their_edge():
    numbers, edges = length_buckets([1, 4, 5, 8, 9, 10], 10, 4)
    assert edges.tolist() == [4, 8, 10]
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2]
    lengths = lognormal(1000, 512)
    numbers, edges = length_buckets(lengths, 512, 64)
    assert np.all(lengths <= edges[numbers]) and np.all(lengths > edges[numbers] - 64)
    assert length_buckets([3], 4, 8)[1].tolist() == [4]


@pytest.mark.parametrize("place", [pack, lambda lengths, capacity: length_buckets(lengths, 8, 4)])
def test_a_document_longer_than_a_row_is_refused(place):
    with pytest.raises(ElfError, match=r"^document 1 has 9 tokens and a row 8: prepare with data"):
        place([3, 9], 8)
