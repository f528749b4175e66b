import numpy as np
import pytest

from elf.draws import draw_seed, id_words, mix, uniform
from elf.training.epoch import balance, batches, bucket_counts, order

BUCKETS = np.array([0] * 10 + [1] * 5 + [2] * 1)


def test_every_row_is_full_and_of_one_bucket():
    epoch = order(BUCKETS, 4, seed=1, epoch=0)
    assert epoch.rows.shape == (3 + 2 + 1, 4)
    assert all(len(set(BUCKETS[row])) == 1 for row in epoch.rows)


def test_every_sample_stands_once_and_fills_are_counted():
    epoch = order(BUCKETS, 4, seed=1, epoch=0)
    first = epoch.rows[epoch.occurrence == 0]
    assert sorted(first.tolist()) == list(range(16))
    assert epoch.fills == 6 * 4 - 16 == np.count_nonzero(epoch.occurrence)
    assert epoch.dropped == 0


def test_occurrence_tells_repeats_apart_however_often_a_bucket_wraps():
    epoch = order([0, 0], 8, seed=0, epoch=0)
    pairs = set(zip(epoch.rows.ravel().tolist(), epoch.occurrence.ravel().tolist(), strict=True))
    assert pairs == {(sample, time) for sample in (0, 1) for time in range(4)}


def test_fills_come_from_the_start_of_the_buckets_own_order():
    (row,) = order([0] * 5, 8, seed=3, epoch=0).rows
    assert row[5:].tolist() == row[:3].tolist()


def test_remainders_can_be_dropped():
    epoch = order(BUCKETS, 4, seed=1, epoch=0, drop=True)
    assert epoch.rows.shape == (2 + 1, 4)
    assert epoch.fills == 0 and epoch.dropped == 2 + 1 + 1
    assert len(set(epoch.rows.ravel().tolist())) == 12


@pytest.mark.parametrize("drop", [False, True])
def test_the_number_of_batches_is_known_without_the_order(drop):
    counts = np.bincount(BUCKETS)
    assert batches(counts, 4, drop) == len(order(BUCKETS, 4, 0, 5, drop).rows)


def test_the_order_is_a_function_of_seed_and_epoch():
    def rows(seed, epoch):
        return order(BUCKETS, 4, seed, epoch).rows.tolist()

    assert rows(1, 2) == rows(1, 2)
    assert len({str(rows(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


# --- repeats ----------------------------------------------------------------------------------

REPEATS = np.array([1, 3, 1, 2, 1, 1, 5, 1, 1, 1] + [2] * 5 + [4])


@pytest.mark.parametrize("drop", [False, True])
def test_each_sample_stands_as_often_as_its_repeats_with_numbers_of_its_own(drop):
    epoch = order(BUCKETS, 4, seed=1, epoch=2, drop=drop, repeats=REPEATS)
    pairs = list(zip(epoch.rows.ravel().tolist(), epoch.occurrence.ravel().tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert all(len(set(BUCKETS[row])) == 1 for row in epoch.rows)
    own = [pair for pair in pairs if pair[1] < REPEATS[pair[0]]]
    if not drop:
        assert sorted(own) == [
            (n, time) for n, times in enumerate(REPEATS) for time in range(times)
        ]
    assert epoch.fills == len(pairs) - len(own) == epoch.rows.size - len(own)
    assert epoch.dropped == REPEATS.sum() - len(own)
    assert len(epoch.rows) == batches(bucket_counts(BUCKETS, REPEATS), 4, drop)


def test_repeats_of_one_change_nothing():
    plain, once = order(BUCKETS, 4, 1, 2), order(BUCKETS, 4, 1, 2, repeats=np.ones(16, int))
    assert (plain.rows == once.rows).all() and (plain.occurrence == once.occurrence).all()
    assert (plain.fills, plain.dropped) == (once.fills, once.dropped)


def test_repeats_are_spread_over_the_epoch():
    epoch = order([0] * 100, 1, seed=0, epoch=0, repeats=np.full(100, 10))
    places = np.flatnonzero(epoch.rows[:, 0] == 7)
    assert len(places) == 10 and places.min() < 300 and places.max() > 700
    assert (np.diff(places) != 1).sum() >= 8


def test_a_sample_without_repeats_does_not_stand_in_the_epoch():
    epoch = order([0, 0, 1], 2, seed=0, epoch=0, repeats=[0, 3, 0])
    assert set(epoch.rows.ravel().tolist()) == {1}
    assert len(epoch.rows) == batches(bucket_counts([0, 0, 1], [0, 3, 0]), 2) == 2


def test_too_many_repeats_are_refused():
    with pytest.raises(ValueError, match="fewer than 2³¹"):
        order([0, 0], 4, 0, 0, repeats=[1 << 30, 1 << 30])


def kohyas_balance(repeats, classes):
    """kohya's loop over the class pictures, with the one difference that the last is cut."""
    times = [0 if is_class else count for count, is_class in zip(repeats, classes, strict=True)]
    wanted, stand, first = sum(times), 0, True
    while stand < wanted:
        for number in np.flatnonzero(classes).tolist():
            more = min(int(repeats[number]), wanted - stand) if first else 1
            times[number] += more
            stand += more
            if stand >= wanted:
                break
        first = False
    return times


@pytest.mark.parametrize("seed", range(50))
def test_class_pictures_stand_as_often_as_all_others_together(seed):
    draw = np.random.default_rng(seed)
    repeats = draw.integers(1, 12, 40)
    classes = draw.random(40) < draw.random()
    times = balance(repeats, classes)
    if not classes.any() or classes.all():
        return
    assert times[classes].sum() == times[~classes].sum() == repeats[~classes].sum()
    assert times.tolist() == kohyas_balance(repeats, classes)


def test_without_class_pictures_repeats_are_as_configured():
    assert balance([3, 1, 2], [False] * 3).tolist() == [3, 1, 2]


# --- seeds ------------------------------------------------------------------------------------

ORDER = [[3, 5], [5, 4], [2, 0], [1, 2]]
SEED = [6040157684109368591]


def test_the_order_never_changes_between_versions():
    # a run may be resumed with a newer numpy or elf: these are what a checkpoint stands for
    assert order([0, 0, 0, 1, 1, 1], 2, seed=7, epoch=3).rows.tolist() == ORDER
    assert draw_seed(7, 3, ["00000000000000ff"], [1]).tolist() == SEED


@pytest.mark.fault(10)
def test_rows_are_the_same_for_every_world_size():
    epoch = order(BUCKETS, 8, seed=2, epoch=1)
    for world in (1, 2, 4, 8):
        shares = [epoch.rows[:, rank::world] for rank in range(world)]
        together = np.stack(shares, axis=2).reshape(epoch.rows.shape)
        assert (together == epoch.rows).all()


def test_shuffling_is_uniform():
    first = [order([0] * 5, 1, seed, 0).rows[0, 0] for seed in range(5000)]
    # 1,000 expected of each, standard deviation 28
    assert (abs(np.bincount(first) - 1000) < 150).all()


def test_an_empty_epoch_has_no_batches():
    epoch = order([], 4, 0, 0)
    assert epoch.rows.shape == (0, 4) and epoch.fills == epoch.dropped == 0


def test_too_many_samples_are_refused():
    with pytest.raises(ValueError, match="fewer than 2³¹"):
        order(np.broadcast_to(np.uint8(0), 1 << 31), 4, 0, 0)


def test_a_seed_depends_on_each_of_its_four():
    base = draw_seed(1, 2, ["00000000000000aa"], [0])
    others = [
        draw_seed(2, 2, ["00000000000000aa"], [0]),
        draw_seed(1, 3, ["00000000000000aa"], [0]),
        draw_seed(2, 1, ["00000000000000aa"], [0]),
        draw_seed(1, 2, ["00000000000000ab"], [0]),
        draw_seed(1, 2, ["00000000000000aa"], [1]),
    ]
    assert len({int(seed[0]) for seed in [base, *others]}) == 6
    assert base.dtype == np.int64 and base[0] >= 0


def test_a_seed_does_not_depend_on_the_batch_around_it():
    ids = [f"{number:016x}" for number in range(100)]
    together = draw_seed(1, 2, ids, np.arange(100))
    alone = [draw_seed(1, 2, [name], [time])[0] for time, name in enumerate(ids)]
    assert together.tolist() == alone
    assert len(set(alone)) == 100


def test_uniform_numbers_are_even_and_independent_between_purposes():
    seeds = draw_seed(0, 0, mix(np.arange(20_000, dtype=np.uint64)))
    dropout, other = uniform(seeds, "caption dropout"), uniform(seeds, "other")
    for numbers in (dropout, other):
        assert 0 <= numbers.min() and numbers.max() < 1
        assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(dropout, other)[0, 1]) < 0.03


def test_ids_are_numbers_and_foreign_keys_are_hashed():
    assert id_words(["00000000000000ff", "ffffffffffffffff"]).tolist() == [255, 2**64 - 1]
    foreign = id_words(["folder/a", "not hexadecimal!"])
    assert len(set(foreign.tolist())) == 2
    assert id_words([]).tolist() == []
