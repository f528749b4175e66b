"""What a sample draws: from its seed alone, with the noise that the objective asks for."""

import pytest
import torch

from elf.objective import ObjectiveConfig, TimestepConfig, draw, offset_noise, perturb

MEAN, STD = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 6, 8), torch.full((3, 4, 6, 8), 0.5)
BATCH = {"seed": torch.tensor([7, 8, 9]), "latent_mean": MEAN, "latent_std": STD}
ALL = ObjectiveConfig(noise_offset=0.1, input_perturbation=0.1)


def alone(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {key: value[row : row + 1] for key, value in batch.items()}


@pytest.mark.parametrize("config", [ObjectiveConfig(), ALL])
def test_a_sample_draws_the_same_in_any_batch(config: ObjectiveConfig) -> None:
    together = draw(BATCH, config, 1000)
    single = draw(alone(BATCH, 1), config, 1000)
    for key, value in together.items():
        assert torch.equal(value[1:2], single[key]), key
    assert not torch.equal(together["noise"][0], together["noise"][1])


def test_latents_are_of_the_posterior() -> None:
    many = {
        "seed": torch.arange(500),
        "latent_mean": torch.full((500, 4, 4, 4), 3.0),
        "latent_std": torch.full((500, 4, 4, 4), 0.5),
    }
    latents = draw(many, ObjectiveConfig(), 1000)["latents"]
    assert latents.mean().item() == pytest.approx(3.0, abs=0.02)
    assert latents.std().item() == pytest.approx(0.5, abs=0.02)


def test_timesteps_follow_the_distribution() -> None:
    many = {
        "seed": torch.arange(2000) * 7919,
        "latent_mean": torch.zeros(2000, 1, 1, 1),
        "latent_std": torch.zeros(2000, 1, 1, 1),
    }
    config = ObjectiveConfig(timesteps=TimestepConfig(first=250, last=749))
    found = draw(many, config, 1000)["timesteps"].float()
    assert 250 <= found.min() < 260 < 740 < found.max() <= 749
    assert found.mean().item() == pytest.approx(499.5, abs=15)


def test_offset_noise_moves_whole_channels_and_is_the_target_too() -> None:
    plain, drawn = (
        draw(BATCH, ObjectiveConfig(), 1000),
        draw(BATCH, ObjectiveConfig(noise_offset=0.1), 1000),
    )
    offset = drawn["noise"] - plain["noise"]
    spread = offset.amax(dim=(2, 3)) - offset.amin(dim=(2, 3))
    assert spread.max() < 1e-6
    assert offset.abs().max() > 0.01
    assert torch.equal(drawn["noise"], drawn["input_noise"])


def test_perturbation_is_of_the_input_alone() -> None:
    plain, drawn = (
        draw(BATCH, ObjectiveConfig(), 1000),
        draw(BATCH, ObjectiveConfig(input_perturbation=0.1), 1000),
    )
    assert torch.equal(drawn["noise"], plain["noise"])
    extra = (drawn["input_noise"] - drawn["noise"]) / 0.1
    assert extra.std().item() == pytest.approx(1, abs=0.1)


def test_the_formulas_by_hand() -> None:
    noise = torch.ones(1, 2, 1, 2)
    offsets = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    assert offset_noise(noise, offsets, 0.5).flatten().tolist() == [1.5, 1.5, 0.5, 0.5]
    assert perturb(noise, torch.full((1, 2, 1, 2), 3.0), 0.5).flatten().tolist() == [2.5] * 4
