"""Small UNets with the structure of each family, and what a step of one gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "sd15": {
        **SMALL,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    },
    "sdxl": {
        **SMALL,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
    },
}


def make_unet(family: str = "sd15", **changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**{**FAMILIES[family], **changes}).requires_grad_(False)
    for module in unet.modules():  # as trained ones: no parameter is 0 or 1
        if isinstance(module, nn.GroupNorm):
            module.weight.normal_(1, 0.2)
            module.bias.normal_(0, 0.2)
    return unet


def conditions(unet: Any, batch: int = 2) -> dict[str, Any]:
    """Return a UNet's inputs, at a side that differs from the other and from a power of two."""
    draw = torch.Generator().manual_seed(1)
    given: dict[str, Any] = {
        "sample": torch.randn(batch, 4, 8, 12, generator=draw),
        "timestep": torch.tensor([5, 900])[:batch],
        "encoder_hidden_states": torch.randn(batch, 7, 24, generator=draw),
    }
    if unet.config.addition_embed_type == "text_time":
        given["added_cond_kwargs"] = {
            "text_embeds": torch.randn(batch, 16, generator=draw),
            "time_ids": torch.tensor([[64.0, 96, 0, 0, 64, 96]]).expand(batch, -1),
        }
    return given


def step(unet: Any, **more: Any) -> dict[str, Tensor]:
    """Return the output and the gradients of all that is trained, by name; seeded dropout."""
    given = {**conditions(unet), **more}
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    torch.manual_seed(2)
    out = unet(**given, return_dict=False)[0]
    draw = torch.Generator().manual_seed(3)
    loss = (out * torch.randn(out.shape, generator=draw)).sum()
    gradients = torch.autograd.grad(loss, list(trained.values()))
    return {"out": out.detach(), **dict(zip(trained, gradients, strict=True))}


def assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor], limit: float = 2e-5) -> None:
    """Compare by each tensor's own scale: float32 rounds in another order."""
    assert ours.keys() == wanted.keys()
    for name, other in wanted.items():
        scale = float(other.abs().max())
        assert scale > 0, f"{name} tests nothing"
        torch.testing.assert_close(
            ours[name], other, rtol=0, atol=limit * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def adapted(unet: Any, **options: Any) -> Any:
    """Put an adapter into a UNet, with values as if it had been trained."""
    from elf import adapters
    from elf.adapters import AdapterConfig

    adapters.inject(unet, AdapterConfig(**{"rank": 4, "alpha": 6, **options}))
    draw = torch.Generator().manual_seed(4)
    for name, parameter in sorted(unet.named_parameters()):
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.data += 0.05 * (parameter.abs() if "magnitude" in name else 1) * noise
    adapters.refresh_norms(unet)
    return unet.train()


@pytest.fixture(name="make_unet")
def _make_unet() -> Callable[..., Any]:
    return make_unet


@pytest.fixture(name="adapted")
def _adapted() -> Callable[..., Any]:
    return adapted


@pytest.fixture(name="conditions")
def _conditions() -> Callable[..., dict[str, Any]]:
    return conditions


@pytest.fixture(name="step")
def _step() -> Callable[..., dict[str, Tensor]]:
    return step


@pytest.fixture(name="assert_same")
def _assert_same() -> Callable[..., None]:
    return assert_same
