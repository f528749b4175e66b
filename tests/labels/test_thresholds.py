import numpy as np
import pytest

from elf.labels.thresholds import Fit, fit_threshold, judged_tags


def test_a_clean_cut_is_found_in_the_middle():
    fit = fit_threshold([0.9, 0.3, 0.7, 0.5], [True, False, True, False])
    assert fit == Fit(0.6, 1.0, pytest.approx(2 / 3), 4)


def test_it_is_the_best_of_all_cutoffs():
    draw = np.random.default_rng(0)
    for _ in range(50):
        scores = np.round(draw.random(30), 1)
        kept = draw.random(30) < scores
        if not kept.any():
            continue
        fit = fit_threshold(scores, kept)

        def f1(cutoff, scores=scores, kept=kept):
            chosen = scores >= cutoff
            return 2 * (chosen & kept).sum() / (chosen.sum() + kept.sum())

        assert fit.f1 == pytest.approx(max(f1(cutoff) for cutoff in scores))
        assert f1(fit.threshold) == pytest.approx(fit.f1)
        assert fit.f1_at_present == pytest.approx(f1(0))


def test_all_kept_keeps_all_and_none_kept_says_nothing():
    assert fit_threshold([0.4, 0.6], [True, True]).threshold == 0.4
    assert fit_threshold([0.4, 0.6], [False, False]) is None
    assert fit_threshold([], []) is None


def test_verdicts_come_from_edited_labels_alone():
    edited = {
        "decision": {"keep": None, "edited": ["tags"]},
        "scores": {"long hair": 0.5, "b": 0.3},
    }
    records = [
        {"tags": ["long_hair", "new"], "attributes": edited},
        {"tags": ["x"], "attributes": {"scores": {"x": 0.9}}},
        {
            "tags": ["y"],
            "attributes": {"decision": {"keep": True, "edited": []}, "scores": {"y": 1}},
        },
    ]
    assert judged_tags(records) == ([0.5, 0.3], [True, False])
