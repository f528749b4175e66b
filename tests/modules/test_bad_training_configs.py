"""Plausible mistakes in a training's configuration: each is told in one line, before any step."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elf import trainer
from elf.errors import ElfError


def refusal(command: Any, *arguments: str) -> str:
    with pytest.raises(ElfError) as error:
        command(list(arguments))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--model.objectiv.weighting=none",
            "unknown key 'model.objectiv.weighting'; did you mean 'objective'?",
        ),
        ("--model.adapter.rank=0", "model.adapter.rank: 0 is not a rank; take"),
        ("--model.adapter.targets=[to_qq]", "model.adapter.targets: no layer is named"),
        ("--model.adapter.targets=[norm1]", "model.adapter.targets:"),
        ("--trainer.precision=16-mixed", "take --trainer.precision 32-true"),
        (
            "--model.adapter.text_targets=attention",
            "data.text_states cached would keep what they said before: set data.text_states to",
        ),
        ("--data.text_states=live", "was prepared with data.text_states='cached', this config"),
        ("--data.resolution=128", "was prepared with data.resolution=64, this config says 128"),
        ("--model.ema.decay=1", "model.ema.decay 1.0 must be at least 0 and below 1"),
        ("--model.objective.noise_offset=-1", "model.objective.noise_offset -1.0 is negative"),
        (
            "--model.objective.timesteps.last=1000",
            "model.objective.timesteps: 0 to 1000 is beyond the base's last timestep, 999",
        ),
        ("--model.objective.weighting=min_snrr", "expected none or min_snr or debiased, got"),
        ("--model.zero_terminal_snr=true", "where min_snr of an ε loss is 0/0; take none"),
        ("--model.prediction_type=velocity", "expected epsilon or v_prediction, got velocity"),
        ("--model.clip_skip=9", "clip_skip: 9 does not fit a text encoder of 3 layers"),
        ("--model.quantization=fp4", "model.quantization: expected nf4 or int8, got fp4"),
        ("--model.caption_tokens=100", "expected 75 or 150 or 225, got 100"),
        (
            "--model.caption_tokens=150",
            "…), clip_skip or caption_tokens: run `elf prepare --config …` with this config",
        ),
        ("--model.schedule.warmup=9", "model.schedule.warmup 9 is no less than the run's 2 steps"),
        ("--model.learning_rates.unet=0", "model.learning_rates.unet 0.0 must be above 0"),
        (
            "--model.learning_rates.text_encoder=1e-4",
            "model.learning_rates.text_encoder 0.0001: there is no such part in training (unet); "
            "leave it out, or set model.adapter.text_targets",
        ),
        (
            "--trainer.gradient_clip_val=-1",
            "trainer.gradient_clip_val -1 must be above 0; null or 0 clips nothing",
        ),
        (
            "--model.optimizer.class_path=Sophia",
            "no class 'Sophia' fits there; name it with its package, as in torch.optim.AdamW",
        ),
        ("--model.optimizer.class_path=os.system", "'os.system' must not be imported"),
        (
            "--model.optimizer.class_path=prodigyopt.Prodigi",
            "model.optimizer: no class 'prodigyopt.Prodigi'",
        ),
        ("--model.validation_strata=0", "model.validation_strata 0 must be at least 1"),
        ("--data.validate_trained=-1", "data.validate_trained -1 is too small: at least 0"),
        ("--data.prior_preservation=2", "data.prior_preservation 2.0 is a share"),
    ],
)
def test_an_option_that_makes_no_sense(
    training: list[str], tmp_path: Path, option: str, message: str
) -> None:
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    found = refusal(trainer.fit, *training, folder, "--trainer.max_steps=2", option)
    assert message in found
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_two_schedules(training: list[str], tmp_path: Path) -> None:
    message = refusal(
        trainer.fit,
        *training,
        f"--trainer.default_root_dir={tmp_path}",
        "--model.schedule.shape=cosine",
        "--model.lr_scheduler.class_path=torch.optim.lr_scheduler.ConstantLR",
    )
    assert "model.schedule and model.lr_scheduler: give one of the two" in message


def test_caches_of_another_base(training: list[str], tiny_sdxl: Path, tmp_path: Path) -> None:
    folder = f"--trainer.default_root_dir={tmp_path}"
    message = refusal(trainer.fit, *training, folder, f"--model.base={tiny_sdxl}")
    assert "the caches were made by another vae model" in message
    assert "run `elf prepare --config …` with this config" in message


def test_a_file_that_is_no_base(training: list[str], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    message = refusal(trainer.fit, *training, folder, f"--model.base={tmp_path}/lora.safetensors")
    assert "is a LoRA, which is trained on a base" in message


def prepared_with(training: list[str], folder: Path, sets: str) -> str:
    own = [each for each in training if not each.startswith(("--data.pictures", "--data.labels"))]
    return refusal(trainer.prepare, *own, f"--data.shards={folder}/shards", f"--data.sets={sets}")


def test_a_regularisation_set_that_is_not_there(training: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("wood_elf, forest")
    message = prepared_with(
        training,
        tmp_path,
        f"[{{pictures: {tmp_path}}}, {{pictures: {tmp_path}/none, regularisation: true}}]",
    )
    assert message == (
        f"data.sets[1].pictures: no folder {tmp_path}/none; give one that is there, or drop the set"
    )


def test_all_sets_are_of_class_pictures(training: list[str], tmp_path: Path) -> None:
    message = prepared_with(training, tmp_path, "[{pictures: x, regularisation: true}]")
    assert message == "data.sets: all are regularisation sets; add the pictures to be learnt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("trigger: elf", ".trigger 'elf': unrelated pictures have none; leave it out"),
        ("repeats: 2", ".repeats: unrelated pictures are not trained on; leave it out"),
    ],
)
def test_an_unrelated_set_is_not_trained_on(
    training: list[str], tmp_path: Path, options: str, message: str
) -> None:
    sets = f"[{{pictures: y}}, {{pictures: x, unrelated: true, {options}}}]"
    assert prepared_with(training, tmp_path, sets) == f"data.sets[1]{message}"


def test_a_mask_of_another_shape(training: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("wood_elf, forest")
    Image.new("L", (64, 32)).save(tmp_path / "a.mask.png")
    message = prepared_with(training, tmp_path, f"[{{pictures: {tmp_path}}}]")
    assert "its mask a.mask.png is 64×32 px, the picture 64×64" in message
