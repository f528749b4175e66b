"""The table's rows, on arrays whose answers are known."""

import numpy as np
import pytest

from elf.evaluation import rows
from elf.evaluation.losses import as_trained, loss_curve, loss_rows
from elf.evaluation.measuring import closeness
from elf.evaluation.plan import Variant
from elf.training.validation import ValidationRun

A, B, C = np.eye(3)
VARIANTS = [Variant("elf × 0.5", 0, 0.5), Variant("elf × 1.2", 0, 1.2)]


def tables(base: list[list[np.ndarray]], adapter: list[list[np.ndarray]]) -> rows.Tables:
    return {"base": np.array(base), "elf × 1": np.array(adapter)}


def test_a_variant_is_compared_with_the_base_pair_by_pair() -> None:
    scores = {
        "base": np.array([[0.0, 0.2], [np.nan, np.nan], [0.4, 0.6]]),
        "elf × 1": np.array([[0.5, 0.7], [np.nan, np.nan], [0.9, 1.1]]),
    }
    (row,) = rows.compared("x", scores, 40, "higher", "how")
    assert (row.name, row.variant, row.pictures, row.needed) == ("x", "elf × 1", 4, 40)
    assert (row.base, row.adapter) == (pytest.approx(0.3), pytest.approx(0.8))
    assert row.difference is not None
    assert row.difference.mean == row.difference.low == pytest.approx(0.5)
    assert row.indicative
    assert row.over_half is None
    (row,) = rows.compared("x", scores, 40, "higher", "how", kept=True)
    assert row.over_half is not None
    assert row.over_half.mean == pytest.approx(0.8 - 0.3 / 2)
    nothing = {name: np.full((2, 2), np.nan) for name in scores}
    assert rows.compared("x", nothing, 40, None, "") == []


def test_the_way_to_the_subject_is_its_share_of_the_bases_distance() -> None:
    likeness = {"base": np.full((3, 2), 0.2), "elf × 1": np.full((3, 2), 0.5)}
    references = np.array([A, A + B])  # their cosine is √½
    (row,) = rows.share_rows(likeness, references, "")
    share = 0.3 / (0.5**0.5 - 0.2)
    assert (row.base, row.adapter) == (0.0, pytest.approx(share))
    assert row.difference is not None and row.difference.low == pytest.approx(share)
    (none,) = rows.share_rows({**likeness, "base": np.full((3, 2), 0.9)}, references, "")
    assert none.note == "skipped: the base is as like the training pictures as they are"
    assert rows.share_rows(likeness, references[:1], "") == []


def test_pictures_that_do_not_depend_on_the_prompt_have_no_margin() -> None:
    texts = np.array([A, B])
    scores = rows.margin_scores(tables([[A, A], [B, B]], [[A, A], [A, A]]), texts)
    assert scores["base"].tolist() == [[1, 1], [1, 1]]
    assert scores["elf × 1"].tolist() == [[1, 1], [-1, -1]] and scores["elf × 1"].mean() == 0


def test_each_picture_is_scored_by_its_own_prompt() -> None:
    scores = rows.prompt_scores(tables([[A, B], [B, B]], [[A, A], [C, C]]), np.array([A, B]))
    assert scores["base"].tolist() == [[1, 0], [1, 1]]
    assert scores["elf × 1"].tolist() == [[1, 1], [0, 0]]


def test_diversity_is_of_a_prompts_seeds() -> None:
    row, ratio = rows.diversity_rows(tables([[A, B], [B, A + B]], [[A, A], [B, A + B]]), "CLIP")
    spread = 1 - 0.5**0.5
    assert (row.base, row.adapter) == (
        pytest.approx((1 + spread) / 2),
        pytest.approx(spread / 2),
    )
    assert (row.pictures, row.needed) == (4, 8)
    assert (ratio.name, ratio.base, ratio.pictures) == ("diversity_ratio", 1, 4)
    assert ratio.adapter == pytest.approx(spread / (1 + spread))
    assert ratio.difference is not None
    assert ratio.difference.mean == pytest.approx(spread / (1 + spread) - 1)
    (row,) = rows.diversity_rows(tables([[A, A]], [[A, B]]), "CLIP")
    assert row.base == 0  # to which nothing has a ratio
    (row,) = rows.diversity_rows(tables([[A]], [[A]]), "CLIP")
    assert row.note == "skipped: it takes two seeds; give more data.seeds"


def test_drift_is_the_distance_from_the_bases_picture() -> None:
    (row,) = rows.change_rows(tables([[A, A]], [[A, B]]), "drift", "", None)
    assert (row.base, row.adapter) == (None, pytest.approx(0.5))


@pytest.mark.parametrize("clip", [False, True])
def test_distributions_are_compared_to_the_training_pictures(clip: bool) -> None:
    random = np.random.default_rng(0)
    near, far = random.normal(1, 0.1, (2, 6, 3, 8)) * np.array([[1], [-1]])[..., None, None]
    (row,) = rows.distribution_rows(
        {"base": far, "elf × 1": near}, random.normal(1, 0.1, (9, 8)), "CLIP", clip
    )
    assert row.name == ("cmmd" if clip else "kid")
    assert row.base is not None and row.adapter is not None and row.adapter < row.base / 10
    assert row.difference is not None and row.difference.high is not None
    assert row.difference.high < 0 and row.pictures == 9


def test_a_copy_is_nearer_than_training_pictures_are_to_each_other() -> None:
    assert closeness(np.array([A, B, C])) == pytest.approx(0)
    assert closeness(np.array([A, A + B, C])) == pytest.approx(0.5**0.5)


def losses() -> ValidationRun:
    run = ValidationRun()
    run.sets["held_out"].add(["a", "b"], np.array([[0.1, 0.3], [0.2, 0.2]]), np.full((2, 2), 0.4))
    return run


def test_the_losses_stand_beside_the_strength_nearest_to_1() -> None:
    assert as_trained(VARIANTS).name == "elf × 1.2"
    assert as_trained([Variant("a", 0, -1.0), Variant("b", 0, 0.5)]).name == "b"
    assert as_trained([*VARIANTS, Variant("c", 0, 1.0)]).name == "c"
    held_out, trained = loss_rows(losses(), VARIANTS)
    assert (held_out.name, held_out.variant, held_out.pictures) == ("held_out_loss", "elf × 1.2", 2)
    assert (held_out.base, held_out.adapter) == (pytest.approx(0.4), pytest.approx(0.2))
    assert held_out.note == "2 pictures, at strength 1"
    assert trained.note.startswith("skipped: no such pictures; set data.shards")


def test_the_base_has_one_curve_beside_many_adapters() -> None:
    curve = loss_curve({"one": losses(), "two": losses(), "none": ValidationRun()}, [10, 900])
    assert [(each.variant, each.timestep) for each in curve] == [
        (name, timestep) for name in ("base", "one", "two") for timestep in (10, 900)
    ]
    assert [each.loss for each in curve[2:4]] == [pytest.approx(0.15), pytest.approx(0.25)]
