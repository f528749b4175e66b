"""The search for likenesses, against brute force."""

import tracemalloc

import numpy as np
import pytest

from elf.curation import duplicates as module
from elf.curation.duplicates import Space, group, principal_axes, shortened


def unit(vectors):
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, where=lengths > 0, out=vectors).astype(np.float32)


def brute_force(spaces, leads):
    """The rule as it is said: in order, each joins the first leader that it is like."""
    found, leaders = [], []
    for row in range(len(leads)):
        alike = [
            leader
            for leader in leaders
            if not leads[row]
            and any(float(s.queries[row] @ s.vectors[leader]) >= s.threshold for s in spaces)
        ]
        found.append(alike[0] if alike else row)
        if not alike:
            leaders.append(row)
    return np.array(found)


def clustered(draw, count, width, spread):
    """Vectors around a few centres, so that there are groups, chains and outsiders."""
    centres = draw.normal(size=(max(1, count // 5), width))
    vectors = centres[draw.integers(0, len(centres), count)]
    vectors = unit(vectors + spread * draw.normal(size=(count, width)))
    vectors[draw.random(count) < 0.03] = 0  # like nothing
    return vectors


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks, chunks and shortened vectors of few pictures."""
    monkeypatch.setattr(module, "BLOCK", 32)
    monkeypatch.setattr(module, "CHUNK", 48)
    monkeypatch.setattr(module, "SHORT", 6)


@pytest.mark.parametrize("width", [8, 40])  # taken whole, and shortened
@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.97])
@pytest.mark.parametrize("spread", [0.02, 0.3, 2.0])
def test_groups_are_those_of_brute_force(small_blocks, width, threshold, spread):
    for seed in range(3):
        draw = np.random.default_rng(seed)
        vectors = clustered(draw, 301, width, spread)
        leads = draw.random(301) < 0.1 * seed
        spaces = [Space(vectors, threshold)]
        np.testing.assert_array_equal(group(spaces, leads), brute_force(spaces, leads))


def test_several_spaces_and_mirrored_queries(small_blocks):
    draw = np.random.default_rng(5)
    a, b, c = (clustered(draw, 200, width, 0.4) for width in (8, 40, 16))
    spaces = [
        Space(a, 0.9),
        Space(b, 0.85),
        Space(c, 0.7, queries=np.ascontiguousarray(c[:, ::-1])),
    ]
    leads = np.zeros(200, bool)
    found = group(spaces, leads)
    np.testing.assert_array_equal(found, brute_force(spaces, leads))
    assert not np.array_equal(found, group(spaces[:1], leads))


@pytest.mark.parametrize("seed", range(4))
def test_what_stays_is_unlike_and_what_goes_is_like_it(small_blocks, seed):
    vectors = clustered(np.random.default_rng(seed), 250, 12, 0.3)
    found = group([Space(vectors, 0.8)], np.zeros(250, bool))
    leaders = np.unique(found)
    products = vectors @ vectors.T
    np.testing.assert_array_equal(found[leaders], leaders)
    assert (found <= np.arange(250)).all()
    others = products[np.ix_(leaders, leaders)]
    assert (others[~np.eye(len(leaders), dtype=bool)] < 0.8).all()
    members = found != np.arange(250)
    assert members.any() and (products[members.nonzero()[0], found[members]] >= 0.8).all()


def test_a_film_is_no_single_group():
    """Each picture is like the next one; the first and the last are not alike."""
    angles = np.linspace(0, np.pi / 2, 400)
    film = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert (film[1:] * film[:-1]).sum(1).min() > 0.9999
    found = group([Space(film, 0.99)], np.zeros(400, bool))
    sizes = np.unique(found, return_counts=True)[1]
    assert len(sizes) > 5
    assert ((film * film[found]).sum(1) >= 0.99).all()


def test_a_bound_is_never_exceeded():
    draw = np.random.default_rng(0)
    for scale in (np.ones(64), 0.9 ** np.arange(64)):
        vectors = unit(draw.normal(size=(300, 64)) * scale)
        short = shortened(vectors, principal_axes(vectors, 10))
        assert short.shape == (300, 11)
        slack = short @ short.T - vectors @ vectors.T
        assert slack.min() > -module.SLACK / 10


def test_a_useless_bound_is_given_up(small_blocks, monkeypatch):
    """All pairs lie just below the threshold: only whole products tell."""
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(200, 60))
    vectors -= vectors.mean(0)
    vectors = unit(np.concatenate([unit(vectors) * 0.25, np.full((200, 1), 0.968)], 1))
    spaces = [Space(vectors, 0.96)]
    assert spaces[0]._short is not None
    found = group(spaces, np.zeros(200, bool))
    assert spaces[0]._short is None
    np.testing.assert_array_equal(found, brute_force(spaces, np.zeros(200, bool)))


def test_thousands_of_copies_need_little_memory():
    """100 million alike pairs, none of which is written down."""
    vectors = unit(np.ones((10_000, 300)) + 1e-3 * np.random.default_rng(0).normal(size=300))
    space = Space(vectors, 0.99)
    tracemalloc.start()
    found = group([space], np.zeros(10_000, bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found.any()
    assert peak < 60 * 2**20


def test_loosely_alike_ones_are_checked(small_blocks):
    draw = np.random.default_rng(2)
    vectors = clustered(draw, 300, 10, 0.25)
    asked = []

    def check(rows, keys):
        asked.extend(zip(rows.tolist(), keys.tolist(), strict=True))
        return (rows + keys) % 3 == 0

    found = group([Space(vectors, 0.99, loose=0.7, check=check)], np.zeros(300, bool))
    products = vectors @ vectors.T
    assert asked and len(asked) == len(set(asked))
    for row, key in asked:
        assert key < row and 0.7 - 1e-6 <= products[row, key] < 0.99
    per_row = np.bincount([row for row, _ in asked])
    assert per_row.max() <= 2 * module.LOOKED_AT
    for row, leader in enumerate(found):
        if leader != row:
            by_check = (row, leader) in asked and (row + leader) % 3 == 0
            assert products[row, leader] >= 0.99 - 1e-6 or by_check
    joined = sum((row, leader) in asked for row, leader in enumerate(found))
    assert joined > 10


def test_the_most_similar_are_checked_first(small_blocks, monkeypatch):
    """With thousands of loosely alike leaders only the nearest few can be looked at."""
    draw = np.random.default_rng(3)
    vectors = unit(np.concatenate([np.ones((200, 1)), 0.15 * draw.normal(size=(200, 30))], 1))
    asked = {}

    def check(rows, keys):
        for row, key in zip(rows.tolist(), keys.tolist(), strict=True):
            asked.setdefault(row, []).append(key)
        return np.zeros(len(rows), bool)

    group([Space(vectors, 2.0, loose=0.1, check=check)], np.zeros(200, bool))
    products = vectors @ vectors.T
    row = 199
    before = np.arange(192)  # the leaders of all blocks before the last one
    nearest = before[np.argsort(-products[row, before])][: module.LOOKED_AT]
    assert set(nearest) <= set(asked[row])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_pictures(count):
    vectors = np.ones((count, 300), np.float32) / np.float32(np.sqrt(300))
    found = group([Space(vectors, 0.9)], np.zeros(count, bool))
    assert found.tolist() == [0] * count


def test_those_that_lead_always_do():
    vectors = unit(np.ones((5, 4)))
    leads = np.array([False, True, False, True, False])
    assert group([Space(vectors, 0.9)], leads).tolist() == [0, 1, 0, 3, 0]


@pytest.mark.slow
def test_large_random_sets_are_those_of_brute_force():
    draw = np.random.default_rng(9)
    for width, threshold in ((255, 0.3), (512, 0.9)):
        vectors = clustered(draw, 6000, width, 0.3 / np.sqrt(width) * 10)
        spaces = [Space(vectors, threshold)]
        leads = draw.random(6000) < 0.01
        products = vectors @ vectors.T
        leaders = np.zeros(6000, bool)
        expected = np.arange(6000)
        for row in range(6000):
            alike = np.flatnonzero(leaders[:row] & (products[row, :row] >= threshold))
            if len(alike) and not leads[row]:
                expected[row] = alike[0]
            else:
                leaders[row] = True
        np.testing.assert_array_equal(group(spaces, leads), expected)
