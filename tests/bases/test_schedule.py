"""Noise and sampling: prediction type, zero-terminal SNR, a VAE that never gives NaN."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from elf.bases import Base, open_base
from elf.bases.schedule import sampler
from elf.errors import ElfError
from elf.generation import GenerationConfig, generate

CPU = torch.device("cpu")


@pytest.fixture(params=["sd15", "sdxl"])
def folder(
    request: pytest.FixtureRequest, tiny_models: dict[str, Path], tiny_sdxl: Path, tmp_path: Path
) -> Path:
    source = tiny_models["base"] if request.param == "sd15" else tiny_sdxl
    return Path(shutil.copytree(source, tmp_path / "base"))


def pipeline(base: Base, dtype: torch.dtype = torch.float32) -> object:
    return base.pipeline(base.unet(dtype), dtype=dtype)


def change(folder: Path, **values: object) -> None:
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_base_says_what_it_predicts(folder: Path) -> None:
    base = open_base(str(folder))
    assert (base.prediction_type, base.zero_terminal_snr) == ("epsilon", False)
    assert base.noise_schedule.config.prediction_type == "epsilon"
    assert base.noise_schedule.alphas_cumprod[-1] > 0
    change(folder, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    other = open_base(str(folder))
    assert (other.prediction_type, other.zero_terminal_snr) == ("v_prediction", True)
    assert other.noise_schedule.alphas_cumprod[-1] == 0


def test_the_user_overrules_it(folder: Path) -> None:
    base = open_base(str(folder), prediction_type="v_prediction", zero_terminal_snr=True)
    assert base.noise_schedule.config.prediction_type == "v_prediction"
    alphas = base.noise_schedule.alphas_cumprod
    assert alphas[-1] == 0
    plain = open_base(str(folder)).noise_schedule.alphas_cumprod
    torch.testing.assert_close(alphas[0], plain[0])  # algorithm 1 keeps the first timestep
    change(folder, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    back = open_base(str(folder), prediction_type="epsilon", zero_terminal_snr=False)
    torch.testing.assert_close(back.noise_schedule.alphas_cumprod, plain)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pictures_are_sampled_as_the_base_was_trained(folder: Path, prediction: str) -> None:
    plain = pipeline(open_base(str(folder), prediction_type=prediction))
    assert plain.scheduler.config.prediction_type == prediction
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert type(plain.scheduler).__name__ == config["_class_name"]
    assert plain.scheduler.config.timestep_spacing == "leading"
    base = open_base(str(folder), prediction_type=prediction, zero_terminal_snr=True)
    rescaled = pipeline(base)
    assert rescaled.scheduler.config.prediction_type == prediction
    assert rescaled.scheduler.config.rescale_betas_zero_snr
    rescaled.scheduler.set_timesteps(7)
    assert rescaled.scheduler.timesteps[0] == 999, "where there is no signal at all"
    settings = GenerationConfig(steps=3, width=64, height=64)
    (picture,) = generate(rescaled, ["wood_elf"], [0], settings, CPU, "np")
    assert picture.std() > 0.01, "not black"


def test_other_noise_is_refused(folder: Path) -> None:
    change(folder, prediction_type="sample")
    with pytest.raises(ElfError) as error:
        open_base(str(folder))
    assert str(error.value) == (
        f"base model: {folder} predicts 'sample'; Elf trains bases that predict epsilon or "
        "v_prediction"
    )
    change(folder, _class_name="EDMDPMSolverMultistepScheduler")
    with pytest.raises(ElfError, match="is made for EDMDPMSolverMultistepScheduler, whose noise"):
        open_base(str(folder))
    with pytest.raises(ElfError) as error:
        open_base(str(folder.parent / "base"), prediction_type="v")
    assert "EDM" in str(error.value)


def test_an_unknown_prediction_type_is_refused(folder: Path) -> None:
    with pytest.raises(ElfError) as error:
        open_base(str(folder), prediction_type="v")
    assert str(error.value) == "prediction_type: 'v' is none of epsilon, v_prediction"


def test_an_unknown_sampler_becomes_ddim() -> None:
    assert type(sampler({"_class_name": "SamplerOfNextYear"})).__name__ == "DDIMScheduler"


def test_networks_at_hand_are_used(folder: Path) -> None:
    base = open_base(str(folder))
    encoder = base.text_encoder("text_encoder", torch.float32)
    pipe = base.pipeline(base.unet(torch.float32), {"text_encoder": encoder})
    assert pipe.text_encoder is encoder


def test_the_vae_runs_in_float32_under_half_precision(folder: Path) -> None:
    base = open_base(str(folder))
    pipe = pipeline(base, torch.bfloat16)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32
    settings = GenerationConfig(steps=2, width=64, height=64, batch_size=2)
    with torch.autocast("cpu", torch.bfloat16):
        pictures = generate(pipe, ["wood_elf", "forest"], [0, 1], settings, CPU, "np")
        latents = torch.randn(1, 4, 16, 16)
        decoded = pipe.vae.decode(latents, return_dict=False)[0]
        encoded = pipe.vae.encode(decoded).latent_dist.mean
    assert [picture.shape for picture in pictures] == [(64, 64, 3)] * 2
    assert decoded.dtype == encoded.dtype == torch.float32
    with torch.no_grad():
        again = base.vae().decode(latents, return_dict=False)[0]
    torch.testing.assert_close(decoded, again)


def test_pictures_that_are_not_finite_are_an_error(folder: Path) -> None:
    base = open_base(str(folder))
    unet = base.unet(torch.float32)
    pipe = base.pipeline(unet)
    settings = GenerationConfig(steps=2, width=64, height=64)
    with torch.no_grad():
        next(iter(pipe.vae.decoder.conv_out.parameters())).fill_(torch.inf)
    with pytest.raises(ElfError, match=r"a sampled picture is not finite .* the VAE is damaged"):
        generate(pipe, ["a"], [0], settings, CPU)
    with torch.no_grad():
        next(iter(unet.parameters())).fill_(torch.nan)
    with pytest.raises(ElfError) as error:
        generate(pipe, ["a"], [0], settings, CPU)
    assert str(error.value) == (
        "a sampled picture's latents are not finite (NaN or infinite): the base or the adapter "
        "overflows; sample in bfloat16 or float32"
    )
