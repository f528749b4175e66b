"""Adapters in a real (tiny) UNet: what is trained, what is off, what is refused."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.bases import open_base
from elf.errors import ElfError


@pytest.fixture
def unet(tiny_models: dict[str, Path]) -> nn.Module:
    return open_base(str(tiny_models["base"])).unet(torch.float32).eval()


def fill(unet: nn.Module) -> None:
    """Give the adapter values as if it had been trained."""
    random = torch.Generator().manual_seed(0)
    for key, tensor in adapters.adapter_state(unet).items():
        if ".lora_B." in key:
            tensor.normal_(0, 0.05, generator=random)
        elif "magnitude" in key:
            tensor.mul_(1.1)


def predict(unet: nn.Module) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    width = unet.config.cross_attention_dim
    latents = torch.randn(2, 4, 16, 16, generator=random)
    text = torch.randn(2, 7, width, generator=random)
    with torch.no_grad():
        return unet(latents, torch.tensor([5, 900]), text, return_dict=False)[0]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_new_adapter_changes_nothing_and_off_is_the_base(unet: nn.Module, kind: str) -> None:
    base = predict(unet)
    count = adapters.inject(unet, AdapterConfig(kind=kind, rank=4))
    assert count == len(adapters.layers(unet)) > 0
    torch.testing.assert_close(predict(unet), base, rtol=1e-4, atol=1e-5)
    fill(unet)
    assert (predict(unet) - base).abs().max() > 1e-2
    adapters.set_enabled(unet, False)
    assert torch.equal(predict(unet), base)
    adapters.set_enabled(unet, True)
    assert (predict(unet) - base).abs().max() > 1e-2


def test_only_the_adapter_is_trained_and_it_is_float32(tiny_models: dict[str, Path]) -> None:
    unet = open_base(str(tiny_models["base"])).unet(torch.float16)
    adapters.inject(unet, AdapterConfig(rank=4))
    for name, parameter in unet.named_parameters():
        ours = adapters.is_adapter_key(name)
        assert parameter.requires_grad == ours
        assert parameter.dtype == (torch.float32 if ours else torch.float16)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_delta_weight_is_what_the_layer_adds(unet: nn.Module, kind: str) -> None:
    adapters.inject(unet, AdapterConfig(kind=kind, rank=4, alpha=2))
    fill(unet)
    layer = adapters.layers(unet)[0]
    inputs = torch.randn(3, layer.in_features)
    with torch.no_grad():
        expected = inputs @ (layer.weight + adapters.delta_weight(layer)).T
        bias = layer.get_base_layer().bias
        torch.testing.assert_close(
            layer(inputs), expected + (0 if bias is None else bias), rtol=1e-4, atol=1e-5
        )


def test_strength_scales_the_update(unet: nn.Module) -> None:
    adapters.inject(unet, AdapterConfig(rank=4, alpha=8))
    fill(unet)
    layer = adapters.layers(unet)[0]
    whole = adapters.delta_weight(layer)
    adapters.set_strength(unet, 0.25)
    torch.testing.assert_close(adapters.delta_weight(layer), whole / 4)


def test_state_goes_round(unet: nn.Module, tiny_models: dict[str, Path]) -> None:
    config = AdapterConfig(kind="dora", rank=4)
    adapters.inject(unet, config)
    fill(unet)
    other = open_base(str(tiny_models["base"])).unet(torch.float32).eval()
    adapters.inject(other, config)
    adapters.load_adapter_state(other, adapters.adapter_state(unet))
    assert torch.equal(predict(other), predict(unet))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdapterConfig(rank=0), "model.adapter.rank: 0 is not a rank"),
        (AdapterConfig(alpha=0), "model.adapter.alpha: 0 must be above 0"),
        (AdapterConfig(dropout=1), "model.adapter.dropout: 1 must be in [0, 1)"),
        (AdapterConfig(targets=["to_x"]), "no layer is named 'to_x'; there are"),
    ],
)
def test_what_makes_no_sense_is_refused(
    unet: nn.Module, config: AdapterConfig, message: str
) -> None:
    with pytest.raises(ElfError, match=re.escape(message)):
        adapters.inject(unet, config)


def test_a_state_of_another_adapter_is_refused(unet: nn.Module) -> None:
    adapters.inject(unet, AdapterConfig(rank=4))
    state = {key: value.clone() for key, value in adapters.adapter_state(unet).items()}
    name = next(key for key in state if ".lora_A." in key)
    wrong = {**state, name: torch.zeros(8, 3)}
    with pytest.raises(ElfError, match=re.escape(f"adapter: {name} has shape (8, 3) in the file")):
        adapters.load_adapter_state(unet, wrong)
    with pytest.raises(ElfError, match=r"the file has x\.lora_A\.weight \(1 such names\)"):
        adapters.load_adapter_state(unet, {**state, "x.lora_A.weight": torch.zeros(1)})
    del state[name]
    with pytest.raises(ElfError, match=re.escape(f"the file lacks {name}")):
        adapters.load_adapter_state(unet, state)
