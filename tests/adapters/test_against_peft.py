"""DoRA layers against peft's own and the built weight: outputs, gradients, merging, dropout."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.adapters.adapted import OutputConv2d, OutputLinear

LAYERS = {
    "linear": lambda: nn.Linear(12, 20),
    "linear without bias": lambda: nn.Linear(20, 12, bias=False),
    "1×1 convolution": lambda: nn.Conv2d(12, 20, 1),
    "3×3 convolution": lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1),
    "3×3 convolution without bias": lambda: nn.Conv2d(12, 8, 3, padding=1, bias=False),
}


class Network(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(inputs)
        return result


def pair(name: str, dropout: float = 0.0, **values: Any) -> tuple[nn.Module, nn.Module]:
    """A layer with Elf's DoRA and with peft's, of the same values."""
    torch.manual_seed(0)
    ours = Network(LAYERS[name]())
    theirs = copy.deepcopy(ours)
    config = AdapterConfig(
        kind="dora", rank=4, alpha=3, targets=["layer"], dropout=dropout, **values
    )
    adapters.inject(ours, config)
    settings = LoraConfig(
        r=4,
        lora_alpha=3,
        target_modules=["layer"],
        use_dora=True,
        lora_dropout=dropout,
        use_rslora=config.rslora,
    )
    inject_adapter_in_model(settings, theirs)
    assert isinstance(ours.layer, OutputLinear | OutputConv2d)
    assert not isinstance(theirs.layer, OutputLinear | OutputConv2d)
    with torch.no_grad():
        for (key, mine), (other, its) in zip(
            ours.named_parameters(), theirs.named_parameters(), strict=True
        ):
            assert (key, mine.shape) == (other, its.shape)
            if "lora_" in key:
                mine.mul_(1 + 0.2 * torch.rand_like(mine)).add_(0.1 * torch.rand_like(mine))
            its.copy_(mine)
    return ours, theirs


def inputs_of(network: nn.Module) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    base: Any = network.layer.get_base_layer()
    if isinstance(base, nn.Conv2d):
        return torch.randn(2, base.in_channels, 7, 7, generator=random)
    return torch.randn(2, 5, base.in_features, generator=random)


def gradients(network: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    inputs = inputs.clone().requires_grad_(True)
    torch.manual_seed(2)  # of dropout
    output = network(inputs)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if "lora_" in name}
    return {"output": output.detach(), "input": inputs.grad, **found}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_peft(name: str, rslora: bool, dropout: float) -> None:
    ours, theirs = pair(name, dropout, rslora=rslora)
    inputs = inputs_of(ours)
    mine, its = gradients(ours.train(), inputs), gradients(theirs.train(), inputs)
    assert mine.keys() == its.keys()
    for key, value in mine.items():
        torch.testing.assert_close(value, its[key], rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", LAYERS)
def test_another_strength_is_that_of_peft(name: str) -> None:
    ours, theirs = pair(name)
    inputs = inputs_of(ours)
    for strength in (0.0, 0.5, 2.0):
        for network in (ours, theirs):
            adapters.set_strength(network, strength)
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_peft_merges_does_the_same_and_comes_back(
    name: str, axis: str, safe: bool
) -> None:
    """As by diffusers' fuse_lora and unfuse_lora."""
    torch.manual_seed(0)
    network = Network(LAYERS[name]())
    adapters.inject(network, AdapterConfig("dora", 4, 3, targets=["layer"], axis=axis))
    inputs, layer = inputs_of(network), network.layer
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.rand_like(parameter))
    before, weight = network(inputs), layer.get_base_layer().weight.clone()
    layer.merge(safe_merge=safe)
    torch.testing.assert_close(network(inputs), before, rtol=1e-5, atol=1e-5)
    layer.unmerge()
    assert torch.equal(layer.get_base_layer().weight, weight)
    assert torch.equal(network(inputs), before)


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_built_weight(name: str, axis: str) -> None:
    """The definition: W' = m ⊙ (W₀ + s B A) / ‖W₀ + s B A‖, the norm without a gradient."""
    torch.manual_seed(0)
    network = Network(LAYERS[name]())
    adapters.inject(network, AdapterConfig("dora", 4, 3, targets=["layer"], axis=axis))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.rand_like(parameter))
    inputs = inputs_of(network)
    found = gradients(network, inputs)
    network.zero_grad()
    layer: Any = network.layer
    base = layer.get_base_layer()

    def built(values: torch.Tensor) -> torch.Tensor:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        whole = base.weight + 3 / 4 * torch.einsum("or,r...->o...", b.flatten(1), a)
        kept = [d for d in range(whole.dim()) if d != (0 if axis == "output" else 1)]
        norm = whole.detach().square().sum(kept, keepdim=True).sqrt()
        magnitude = layer.lora_magnitude_vector["default"].weight.view(norm.shape)
        weight = magnitude * whole / norm
        if isinstance(base, nn.Linear):
            return nn.functional.linear(values, weight, base.bias)
        return nn.functional.conv2d(values, weight, base.bias, base.stride, base.padding)

    network.forward = built  # type: ignore[method-assign]
    for key, value in gradients(network, inputs).items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_16_bit_base_gives_its_own_type_and_nearly_the_same(
    name: str, autocast: bool, axis: str
) -> None:
    torch.manual_seed(0)
    network = Network(LAYERS[name]())
    half = copy.deepcopy(network).bfloat16()
    config = AdapterConfig("dora", 4, 3, targets=["layer"], axis=axis)
    for each in (network, half):
        adapters.inject(each, config)
    random = torch.Generator().manual_seed(0)
    for tensor in adapters.adapter_state(network).values():
        tensor.add_(0.05 * torch.rand(tensor.shape, generator=random))
    adapters.load_adapter_state(half, adapters.adapter_state(network))
    inputs = inputs_of(network)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = half(inputs if autocast else inputs.bfloat16())
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), network(inputs), rtol=0.05, atol=0.05)
    for parameter in half.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        assert not parameter.requires_grad or parameter.grad.dtype == torch.float32
