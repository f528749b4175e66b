"""Moving averages by their formula, and weights that come back bit by bit."""

import pytest
import torch
from schedulefree import AdamWScheduleFree

from elf.errors import ElfError
from elf.training.averaging import EMAConfig, EvaluatedWeights, MovingAverage, is_schedule_free


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([1.0, 2.0]))


def test_the_average_by_hand() -> None:
    value = torch.tensor([0.0])
    average = MovingAverage(EMAConfig(decay=0.9, warmup=False), lambda: {"a": value})
    for step, now in enumerate((10.0, 20.0), 1):
        value.fill_(now)
        average.update(step)
    assert average.averages["a"].item() == pytest.approx(0.9 * 1.0 + 0.1 * 20.0)


def test_warm_up_follows_the_weights_closely_at_first() -> None:
    config = EMAConfig(decay=0.99)
    assert [config.decay_at(n) for n in (0, 8, 10_000)] == pytest.approx([0.1, 0.5, 0.99])


def test_updates_every_n_steps() -> None:
    value = torch.tensor([8.0])
    average = MovingAverage(
        EMAConfig(decay=0.5, warmup=False, every_n_steps=2), lambda: {"a": value}
    )
    value.fill_(0.0)
    found = []
    for step in range(1, 5):
        average.update(step)
        found.append(average.averages["a"].item())
    assert found == [8.0, 4.0, 4.0, 2.0]


def test_weights_in_training_come_back_bit_by_bit() -> None:
    weight = parameter()
    average = MovingAverage(EMAConfig(), lambda: {"a": weight.detach()})
    average.averages["a"].fill_(7.0)
    weights = EvaluatedWeights(lambda: {"a": weight.detach()}, average, list)
    with weights.in_place(), weights.in_place():
        assert weight.tolist() == [7.0, 7.0]
        assert weights.trained()["a"].tolist() == [1.0, 2.0]
    assert weight.tolist() == [1.0, 2.0]
    assert weights.evaluated()["a"].tolist() == [7.0, 7.0]


def test_they_come_back_after_an_error_too() -> None:
    weight = parameter()
    average = MovingAverage(EMAConfig(), lambda: {"a": weight.detach()})
    average.averages["a"].fill_(7.0)
    weights = EvaluatedWeights(lambda: {"a": weight.detach()}, average, list)
    with pytest.raises(KeyError), weights.in_place():
        raise KeyError
    assert weight.tolist() == [1.0, 2.0]


def test_without_an_average_nothing_is_put_anywhere() -> None:
    weight = parameter()
    weights = EvaluatedWeights(lambda: {"a": weight.detach()}, None, lambda: [
        torch.optim.AdamW([weight])
    ])  # fmt: skip
    assert weights.evaluated() is None


def test_schedule_free_weights_are_the_optimizers_and_training_goes_on_bit_by_bit() -> None:
    """Its own way back from the weights it wants evaluated rounds."""

    def trained(look: bool) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(64))
        optimizer = AdamWScheduleFree([weight], lr=0.1)
        weights = EvaluatedWeights(lambda: {"a": weight.detach()}, None, lambda: [optimizer])
        optimizer.train()
        for _ in range(20):
            (weight - 3).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if look:
                weights.evaluated()
        seen = weights.evaluated()
        assert seen is not None
        kept = weight.detach().clone()
        optimizer.eval()
        assert torch.equal(seen["a"], weight.detach())
        assert not torch.equal(kept, seen["a"])
        return kept, seen["a"]

    for one, other in zip(trained(True), trained(False), strict=True):
        assert torch.equal(one, other)


def test_which_optimizers_are_schedule_free() -> None:
    weight = parameter()
    assert is_schedule_free(AdamWScheduleFree([weight]))
    assert not is_schedule_free(torch.optim.AdamW([weight]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMAConfig(decay=1), "model.ema.decay 1 must be at least 0 and below 1"),
        (lambda: EMAConfig(every_n_steps=0), "model.ema.every_n_steps 0 must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ElfError) as error:
        make()
    assert str(error.value) == message
