"""The numbers of the real bases, without weights: what they add up to, how parts are named."""

import diffusers
import pytest
import torch
import transformers

from elf.bases import FAMILIES
from elf.bases.checkpoint import empty
from elf.bases.configs import CONFIGS
from elf.bases.schedule import noise_schedule, sampler
from elf.tiny.singlefile import original
from elf.tiny.store import count_parameters

PARAMETERS = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text_encoder"): 123_060_480,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "vae"): 83_653_863,
    ("sdxl", "text_encoder"): 123_060_480,
    ("sdxl", "text_encoder_2"): 694_659_840,
}
# as in the published checkpoints
KEYS = {
    ("sd15", "unet"): {
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.bias",
        "input_blocks.9.0.op.weight",
        "output_blocks.11.0.skip_connection.weight",
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
    },
    ("sdxl", "unet"): {
        "label_emb.0.2.bias",
        "output_blocks.2.2.conv.weight",
        "input_blocks.6.0.op.weight",
        "middle_block.1.transformer_blocks.9.ff.net.0.proj.weight",
    },
    ("sdxl", "text_encoder_2"): {
        "transformer.resblocks.31.attn.in_proj_weight",
        "transformer.resblocks.9.mlp.c_proj.bias",
        "positional_embedding",
        "text_projection",
    },
}


@pytest.mark.parametrize(("family", "part"), sorted(PARAMETERS))
def test_the_known_numbers_are_those_of_the_published_models(family: str, part: str) -> None:
    names = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    name = names.get(part) or FAMILIES[family].text_encoders[part]
    cls = getattr(diffusers if part in names else transformers, name)
    network = empty(cls, CONFIGS[family][part])
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert count_parameters(network) == PARAMETERS[family, part]
    keys = {key.split("model.", 1)[1] for key in original(network, family, part)}
    if part == "unet":
        keys = {key.removeprefix("diffusion_model.") for key in keys}
    assert KEYS.get((family, part), set()) <= keys


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_real_unets_names_are_those_that_diffusers_knows(family: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    network = empty(diffusers.UNet2DConditionModel, CONFIGS[family]["unet"])
    converted = convert_ldm_unet_checkpoint(original(network, family, "unet"), network.config)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == shapes


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_known_schedule_is_stable_diffusions(family: str) -> None:
    alphas = noise_schedule(CONFIGS[family]["scheduler"]).alphas_cumprod
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(alphas, (1 - betas).cumprod(0))
    name = CONFIGS[family]["scheduler"]["_class_name"]
    assert type(sampler(CONFIGS[family]["scheduler"])).__name__ == name
