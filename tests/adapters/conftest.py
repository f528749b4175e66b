"""Small networks of the real kinds, and adapters with values as if they had been trained."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from elf import adapters
from elf.tiny import base


@pytest.fixture(scope="session")
def _pipeline() -> Any:
    """As the tiny base, with networks that are smaller still: the tests here make hundreds."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    pipeline = base.pipeline()
    torch.manual_seed(0)
    pipeline.unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    small = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
    config = {**pipeline.text_encoder.config.to_dict(), **small, "num_hidden_layers": 2}
    pipeline.text_encoder = CLIPTextModel(CLIPTextConfig(**config))
    return pipeline


@pytest.fixture
def unet(_pipeline: Any) -> nn.Module:
    network: nn.Module = copy.deepcopy(_pipeline.unet)
    return network.eval()


@pytest.fixture
def text_encoder(_pipeline: Any) -> nn.Module:
    network: nn.Module = copy.deepcopy(_pipeline.text_encoder)
    return network.eval()


@pytest.fixture
def pipeline(_pipeline: Any) -> Any:
    """A pipeline that has never seen an adapter."""
    return type(_pipeline)(**{k: copy.deepcopy(v) for k, v in _pipeline.components.items()})


@pytest.fixture
def fill() -> Callable[[nn.Module], None]:
    """Give a network's adapter values as if it had been trained."""

    def filled(network: nn.Module) -> None:
        random = torch.Generator().manual_seed(0)
        for key, tensor in adapters.adapter_state(network).items():
            if ".lora_B." in key:
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=random))
            elif "magnitude" in key:
                tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=random))

    return filled


@pytest.fixture
def predict() -> Callable[[nn.Module], torch.Tensor]:
    """What a UNet or a text encoder gives for fixed inputs."""

    def predicted(network: nn.Module) -> torch.Tensor:
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            if hasattr(network, "conv_in"):
                latents = torch.randn(2, 4, 8, 8, generator=random)
                text = torch.randn(2, 7, network.config.cross_attention_dim, generator=random)
                return network(latents, torch.tensor([5, 900]), text, return_dict=False)[0]
            tokens = torch.randint(3, 40, (2, 7), generator=random)
            return network(tokens)[0]

    return predicted
