from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from elf.tiny.captions import CAPTIONS, caption_tokens
from elf.tiny.data import BASE, HELD_OUT, Split, draw_splits, padded, split_scenes, squashed
from elf.tiny.evaluate import attribute_rate, caption_rate, macro_f1
from elf.tiny.loop import Average, Budget, train
from elf.world.words import caption, tags


def test_splits_hold_what_they_promise() -> None:
    assert not any(scene.headwear == "leaf crown" for scene in BASE.scenes(500))
    assert any(scene.headwear == "leaf crown" for scene in HELD_OUT.scenes(100))
    assert BASE.scene(17) == BASE.scenes(20)[17]


def test_drawings_are_cached_and_match_their_scenes(tmp_path: Path) -> None:
    split = Split(seed=99, leaf_crown=True, evaluation=False)
    first = draw_splits(split, 8, cache=tmp_path)
    assert {size: array.shape for size, array in first.items()} == {
        (64, 64): (8, 64, 64, 3),
        (48, 64): (2, 64, 48, 3),
        (64, 48): (2, 48, 64, 3),
    }
    again = draw_splits(split, 8, cache=tmp_path)
    assert all(np.array_equal(first[size], again[size]) for size in first)
    assert split_scenes(split, first)[8] == split.scene(0)


def test_pictures_are_padded_with_white_or_squashed() -> None:
    narrow = np.zeros((1, 64, 48, 3), np.uint8)
    assert padded(narrow)[0, :, :8].min() == 255
    assert padded(narrow)[0, :, 8:56].max() == 0
    assert squashed(narrow).shape == (1, 64, 64, 3)


def test_caption_tokens_are_cached(tmp_path: Path) -> None:
    first = caption_tokens(4, tmp_path)
    assert first[64, 64].shape == (4, CAPTIONS, 77)
    assert np.array_equal(first[64, 64], caption_tokens(4, tmp_path)[64, 64])


def test_the_loop_learns_and_averages_and_calls_half_way() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 1)
    average = Average(layer, 0.9)
    called = []

    def loss() -> torch.Tensor:
        inputs = torch.randn(32, 4)
        return (layer(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    before = float(loss().detach())
    budget = Budget(steps=300, batch=32, rate=0.05, warmup=10)
    train("line", [layer], budget, [loss], [average], halfway=lambda: called.append(1))
    assert float(loss().detach()) < before / 50
    assert called == [1]
    torch.testing.assert_close(average.model.weight, layer.weight, atol=0.05, rtol=0)


def test_a_bound_on_the_time_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    layer = nn.Linear(2, 1)
    budget = Budget(steps=10**9, batch=1, rate=0.1, seconds=0.2)
    train("short", [layer], budget, [lambda: layer(torch.ones(1, 2)).square().mean()], [])


def test_rates_count_what_is_right() -> None:
    scenes = HELD_OUT.scenes(20)
    assert attribute_rate([set(tags(scene)) for scene in scenes], scenes)[0] == 1
    assert attribute_rate([set() for _ in scenes], scenes)[0] == 0
    assert caption_rate([caption(scene) for scene in scenes], scenes) == 1
    truth = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
    mean, scores = macro_f1(np.array([[0.9, 0.9, 0], [0.9, 0.8, 0]], np.float32), truth)
    assert mean == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(scores[2])


@pytest.mark.slow
def test_one_command_trains_all_models(tmp_path: Path) -> None:
    from elf.tiny.train import main

    options = ["--scale=0.003", "--batch=8", "--workers=1", "--device=cpu"]
    main(["all", f"--output={tmp_path / 'models'}", f"--cache={tmp_path / 'cache'}", *options])
    models = ("captioner", "language")
    files = [f"{model}/model.safetensors" for model in models]
    for file in ("base/model_index.json", "tagger/model.onnx", *files):
        assert (tmp_path / "models" / file).exists()
