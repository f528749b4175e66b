import numpy as np
import pytest

from elf.taggers.outputs import EMPTY, CaptionOutput, ScoreOutput, to_units
from elf.taggers.scores import Scores


def test_units_are_what_the_rules_compare():
    scores = np.random.default_rng(0).random(10_000).astype(np.float32)
    kept = to_units(scores) / 10_000
    np.testing.assert_array_equal(np.round(kept, 4), np.round(scores.astype(np.float64), 4))
    assert to_units(np.float32([0, 1])).tolist() == [0, 10_000]


@pytest.mark.parametrize("features", [None, np.arange(6).astype(np.float16)])
def test_scores_come_back(features):
    units = np.arange(999, dtype=np.uint16)
    output = ScoreOutput(Scores.of(units), 640, 480, "CPUExecutionProvider", features)
    back = ScoreOutput.unpack(output.pack())
    np.testing.assert_array_equal(back.units.dense, units)
    assert (back.width, back.height, back.provider) == (640, 480, "CPUExecutionProvider")
    assert (back.embedding is None) == (features is None)
    if features is not None:
        np.testing.assert_array_equal(back.embedding, features)


def test_captions_come_back():
    output = CaptionOutput('A "fern" – ü', "ok", "float16")
    assert CaptionOutput.unpack(output.pack()) == output


def test_only_what_would_be_said_again_lasts():
    assert CaptionOutput("x", "ok").lasting and CaptionOutput(None, EMPTY).lasting
    assert not CaptionOutput(None, "failed: out of memory").lasting
    assert not CaptionOutput(None, "unavailable: no folder").lasting


def test_the_scores_of_a_list_of_real_size_take_a_few_kilobytes():
    scores = np.random.default_rng(0).beta(0.02, 8, 10_861).astype(np.float32)
    assert len(ScoreOutput(Scores.of(to_units(scores)), 1, 1, "x").pack()) < 6000
