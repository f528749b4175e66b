"""What quantisation costs the embedded base, and what it saves the large ones."""

import pytest
import torch

from elf.bases import open_base
from elf.bases.configs import CONFIGS
from elf.objective import diffusion
from elf.quantized import Kind, QuantizedLinear, quantize

PROMPTS = ["wood_elf, portrait, forest", "wood_elf, full body, snow", "portrait, forest"]


@pytest.fixture(scope="module")
def losses() -> dict[str, float]:
    """Denoising losses of the embedded base on pictures as it makes them itself."""
    base = open_base("models/tiny/base")
    pipeline = base.pipeline(base.unet(torch.float32))
    random = torch.Generator().manual_seed(0)
    latents = pipeline(
        PROMPTS, num_inference_steps=12, generator=random, output_type="latent"
    ).images
    text = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0].detach()
    schedule = base.noise_schedule.alphas_cumprod
    found = {}
    for kind in ("plain", "nf4", "int8"):
        unet = base.unet(torch.float32)
        if kind in ("nf4", "int8"):
            quantize(unet, kind)  # type: ignore[arg-type]
        random, errors = torch.Generator().manual_seed(1), []
        for step in range(60, 1000, 125):
            timesteps = torch.full((len(latents),), step)
            noise = torch.randn(latents.shape, generator=random)
            noisy = diffusion.add_noise(latents, noise, timesteps, schedule)
            wanted = diffusion.target(base.prediction_type, latents, noise, timesteps, schedule)
            with torch.no_grad():
                errors.append((unet(noisy, timesteps, text).sample - wanted).square().mean())
        found[kind] = torch.stack(errors).mean().item()
    return found


# docs/training.md says 2.4 % and less than 0.1 %; NF4's error of 9 % is added to each weight.
@pytest.mark.parametrize(("kind", "bound"), [("nf4", 0.05), ("int8", 0.001)])
def test_the_loss_is_near_that_of_the_plain_base(
    losses: dict[str, float], kind: str, bound: float
) -> None:
    assert abs(losses[kind] / losses["plain"] - 1) < bound


@pytest.mark.parametrize(
    ("family", "kind", "gib"),
    [("sd15", "int8", 1.35), ("sd15", "nf4", 1.24), ("sdxl", "int8", 2.71), ("sdxl", "nf4", 1.79)],
)
def test_the_table_of_the_docs(family: str, kind: Kind, gib: float) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):  # so a plan can be made without weights
        unet = UNet2DConditionModel.from_config(CONFIGS[family]["unet"]).half()
    quantize(unet, kind)
    size = sum(parameter.nbytes for parameter in unet.parameters())
    assert round(size / 2**30, 2) == gib


def test_only_linear_layers_are_quantised() -> None:
    unet = open_base("models/tiny/base").unet(torch.float16)
    convolutions = {
        name: module.weight
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }
    quantize(unet, "nf4")
    linear = [module for module in unet.modules() if isinstance(module, torch.nn.Linear)]
    assert linear
    assert all(isinstance(module, QuantizedLinear) for module in linear)
    for name, weight in convolutions.items():
        assert unet.get_submodule(name).weight is weight
