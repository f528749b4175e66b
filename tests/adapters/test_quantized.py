"""Adapters on a quantised network: as on a network that has the weights its codes stand for."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.adapters.factored import frozen_weight
from elf.errors import ElfError
from elf.quantized import Kind, QuantizedLinear, quantize
from elf.training import adapter_norms

Fill = Callable[[nn.Module], None]
Predict = Callable[[nn.Module], torch.Tensor]
KINDS = ["nf4", "int8"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dropout": {"dropout": 0.5},
    "dora": {"kind": "dora"},
    "dora, input axis": {"kind": "dora", "axis": "input"},
    "dora, convolutions": {"kind": "dora", "targets": "attention+feedforward+convolutions"},
    "pissa": {"init": "pissa"},
    "olora": {"init": "olora"},
}


def config_of(name: str) -> AdapterConfig:
    return AdapterConfig(**{"rank": 4, "alpha": 3, **ADAPTERS[name]})


def spelled_out(network: nn.Module) -> nn.Module:
    """The network that the codes stand for, with plain layers."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, QuantizedLinear):
            has_bias = module.bias is not None
            plain = nn.Linear(module.in_features, module.out_features, bias=has_bias)
            plain.weight.data = module.dequantized()
            plain.bias = module.bias
            network.set_submodule(name, plain.train(module.training))
    return network


def loss_and_gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    latents = torch.randn(2, 4, 8, 8, generator=random)
    text = torch.randn(2, 7, 32, generator=random)
    loss = network(latents, torch.tensor([7, 800]), text).sample.square().mean()
    loss.backward()
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **{n: p.grad for n, p in trained.items() if p.grad is not None}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_all_is_as_on_the_weights_spelled_out(
    unet: nn.Module, fill: Fill, predict: Predict, kind: Kind, name: str
) -> None:
    whole = predict(unet)
    quantize(unet, kind)
    assert 0 < (predict(unet) - whole).norm() / whole.norm() < (0.2 if kind == "nf4" else 0.02)
    other = spelled_out(unet)
    base = predict(unet)
    torch.testing.assert_close(base, predict(other))
    for network in (unet, other):
        torch.manual_seed(0)
        adapters.inject(network, config_of(name))
    assert torch.equal(predict(unet), base)  # so a magnitude is its norm: the gain is 1
    adapters.load_adapter_state(other, adapters.adapter_state(unet))
    fill(unet)
    fill(other)
    torch.testing.assert_close(predict(unet), predict(other), rtol=1e-4, atol=1e-5)
    with adapters.disabled(unet):
        assert torch.equal(predict(unet), base)
    found, expected = loss_and_gradients(unet.eval()), loss_and_gradients(other.eval())
    assert found.keys() == expected.keys()
    assert len(found) > 1
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-6)
    changes = [
        adapter_norms.relative_changes(each, adapter_norms.weight_squares(each))
        for each in (unet, other)
    ]
    torch.testing.assert_close(changes[0], changes[1])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_weight_is_kept_with_the_norms(unet: nn.Module, kind: Kind) -> None:
    quantize(unet, kind)
    adapters.inject(unet, AdapterConfig("dora", 4))
    adapters.reuse_norms(unet, torch.optim.AdamW(p for p in unet.parameters() if p.requires_grad))
    for layer in adapters.layers(unet):
        own = layer.get_base_layer()
        assert isinstance(own, QuantizedLinear)
        kept = {**vars(layer), **vars(own)}
        tensors = [value for value in kept.values() if isinstance(value, torch.Tensor)]
        assert tensors  # n and c₀
        assert max(tensor.numel() for tensor in tensors) <= own.out_features
        assert frozen_weight(own).numel() > own.out_features


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_not_merged(unet: nn.Module, predict: Predict, kind: Kind) -> None:
    quantize(unet, kind)
    adapters.inject(unet, AdapterConfig(rank=4))
    before = predict(unet)
    with pytest.raises(ElfError, match="this base is quantised; load it without quantization"):
        adapters.merge(unet)
    assert torch.equal(predict(unet), before)


def test_an_initialisation_that_peft_cannot_give_it_is_refused(unet: nn.Module) -> None:
    quantize(unet, "int8")
    with pytest.raises(ElfError) as error:
        adapters.inject(unet, AdapterConfig(rank=4, init="orthogonal"))
    message = "model.adapter.init: orthogonal is not for a quantised base; take kaiming or gaussian"
    assert str(error.value) == message
    assert not adapters.layers(unet)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_gradients_under_checkpointing_are_the_same(unet: nn.Module, fill: Fill, name: str) -> None:
    quantize(unet, "nf4")
    adapters.inject(unet, config_of(name))
    fill(unet)
    unet.train()
    found = loss_and_gradients(unet)
    unet.zero_grad(set_to_none=True)
    unet.enable_gradient_checkpointing()  # type: ignore[operator]
    again = loss_and_gradients(unet)
    assert found.keys() == again.keys()
    for key, value in found.items():
        torch.testing.assert_close(again[key], value)
