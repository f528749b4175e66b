"""Groups of parameters, learning rates of parts, clipping."""

import pytest
import torch

from elf.errors import ElfError
from elf.training import optimization
from elf.training.optimization import LearningRates, adamw, clip_gradients, make_optimizer

Parts = dict[str, list[tuple[float, dict[str, torch.nn.Parameter]]]]


def parts(scale: float = 1.0) -> Parts:
    names = ("to_q.lora_A.default.weight", "to_q.lora_B.default.weight")
    return {
        part: [(scale, {name: torch.nn.Parameter(torch.ones(2)) for name in names})]
        for part in ("unet", "text_encoder", "text_encoder_2")
    }


def rates(config: LearningRates) -> dict[str, float]:
    return {g["name"]: g["lr"] for g in make_optimizer(adamw, parts(), config).param_groups}


def test_parts_have_the_optimizers_rate_or_their_own() -> None:
    assert rates(LearningRates()) == {
        "unet": 1e-4, "text_encoder": 1e-4, "text_encoder_2": 1e-4
    }  # fmt: skip
    assert rates(LearningRates(unet=1e-3, text_encoder=1e-5)) == {
        "unet": 1e-3, "text_encoder": 1e-5, "text_encoder_2": 1e-5
    }  # fmt: skip
    assert rates(LearningRates(text_encoder=1e-5, text_encoder_2=2e-5))["text_encoder_2"] == 2e-5


def test_lora_plus_makes_b_faster() -> None:
    found = rates(LearningRates(unet=1e-3, lora_plus=16))
    assert found["unet"] == 1e-3
    assert found["unet_b"] == 16e-3
    assert found["text_encoder_b"] == pytest.approx(16e-4)
    optimizer = make_optimizer(adamw, parts(), LearningRates(lora_plus=2))
    assert [len(group["params"]) for group in optimizer.param_groups] == [1] * 6


def test_a_groups_factor_is_of_its_parts_rate() -> None:
    made = make_optimizer(adamw, parts(0.5), LearningRates(unet=1e-3, lora_plus=4))
    found = {group["name"]: group["lr"] for group in made.param_groups}
    assert found["unet_x0.5"] == pytest.approx(5e-4)
    assert found["unet_x0.5_b"] == pytest.approx(2e-3)


def test_clipping_by_norm_and_by_value() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]

    def clipped(*options: object) -> tuple[float, list[float]]:
        for weight, gradient in zip(weights, ([3.0, 0.0], [4.0]), strict=True):
            weight.grad = torch.tensor(gradient)
        norm = clip_gradients(weights, *options)
        return norm.item(), torch.cat([weight.grad for weight in weights]).tolist()

    assert clipped(None) == (5.0, [3.0, 0.0, 4.0])
    assert clipped(1.0) == (5.0, pytest.approx([0.6, 0.0, 0.8], rel=1e-5))
    assert clipped(3.5, "value") == (5.0, [3.0, 0.0, 3.5])


@pytest.mark.parametrize("key", ["unet", "text_encoder", "text_encoder_2", "lora_plus"])
def test_a_rate_of_0_is_refused(key: str) -> None:
    with pytest.raises(ElfError) as error:
        LearningRates(**{key: 0.0})
    assert str(error.value) == f"model.learning_rates.{key} 0.0 must be above 0"


def test_another_rate_than_the_checkpoints_is_refused() -> None:
    optimizer = make_optimizer(adamw, parts(), LearningRates())
    wanted = optimization.options(make_optimizer(adamw, parts(), LearningRates(unet=1e-3)))
    with pytest.raises(ElfError, match=r"model.optimizer.lr is 0.001 here and 0.0001 in the"):
        optimization.refuse_others(optimizer, wanted)
    optimization.refuse_others(optimizer, optimization.options(optimizer))
