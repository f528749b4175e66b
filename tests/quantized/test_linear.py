"""A quantised layer computes with the weight that it says, and keeps no copy of it."""

import copy
import pickle
import sys

import jaxtyping
import pytest
import torch
from torch import nn
from torch.nn import functional

from elf.errors import ElfError
from elf.quantized import Kind, QuantizedLinear, quantize

KINDS = ["nf4", "int8"]


def layer(kind: Kind, bias: bool = True, dtype: torch.dtype = torch.float32) -> QuantizedLinear:
    torch.manual_seed(0)
    return QuantizedLinear(nn.Linear(48, 64, bias=bias).to(dtype).requires_grad_(False), kind)


def gradient(output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(output.square().sum(), inputs)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 7, 48), (1, 48), (1, 1, 48), (3, 0, 48)])
def test_output_and_gradient_are_those_of_the_weight(
    kind: Kind, bias: bool, shape: tuple[int, ...]
) -> None:
    quantised = layer(kind, bias)
    inputs = torch.randn(shape, requires_grad=True)
    output = quantised(inputs)
    expected = functional.linear(inputs, quantised.dequantized(), quantised.bias)
    assert torch.equal(output, expected)
    torch.testing.assert_close(gradient(output, inputs), gradient(expected, inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_it_has_the_type_of_other_layers(kind: Kind) -> None:
    quantised = layer(kind, dtype=torch.bfloat16)
    plain = nn.Linear(48, 64).bfloat16()
    plain.weight.data, plain.bias.data = quantised.dequantized(), quantised.bias.data
    inputs = torch.randn(2, 48, requires_grad=True)  # as a normalisation gives them
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = quantised(inputs), plain(inputs)
    assert output.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    found = gradient(output, inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gradient(expected, inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_codes_is_kept_for_the_backward_pass(kind: Kind) -> None:
    quantised = layer(kind)
    own = {tensor.data_ptr() for tensor in quantised.parameters()}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        quantised(torch.randn(2, 48, requires_grad=True))
    assert kept
    assert {tensor.data_ptr() for tensor in kept} <= own


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_other_types_copies_and_pickles(kind: Kind) -> None:
    quantised = layer(kind, dtype=torch.float16)
    weight = quantised.dequantized()
    network = nn.Sequential(quantised)
    assert torch.equal(network.bfloat16().float().half()[0].dequantized(), weight)
    assert quantised.scales.dtype == torch.float32
    for other in (copy.deepcopy(quantised), pickle.loads(pickle.dumps(quantised))):
        assert torch.equal(other.dequantized(), weight)
        assert not any(parameter.requires_grad for parameter in other.parameters())
    fresh = QuantizedLinear(nn.Linear(48, 64).half(), kind)
    fresh.load_state_dict(quantised.state_dict())
    assert torch.equal(fresh.dequantized(), weight)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_whole(kind: Kind, autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # no graph can hold its checks
    quantised = layer(kind)
    inputs = torch.randn(2, 48, requires_grad=True)
    compiled = torch.compile(quantised, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output, expected = compiled(inputs), quantised(inputs)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient(output, inputs), gradient(expected, inputs))


@pytest.mark.parametrize(("kind", "bytes_each"), [("nf4", 0.5 + 4 / 64), ("int8", 1 + 4 / 128)])
def test_a_network_keeps_all_but_the_weights_of_linear_layers(
    kind: Kind, bytes_each: float
) -> None:
    network = nn.Sequential(
        nn.Linear(128, 64), nn.Conv2d(8, 8, 3), nn.ModuleList([nn.Linear(128, 32)]), nn.Linear(3, 5)
    ).half()
    before = copy.deepcopy(network)
    quantize(network, kind)
    assert isinstance(network[0], QuantizedLinear)
    assert isinstance(network[2][0], QuantizedLinear)
    assert isinstance(network[3], QuantizedLinear) == (kind == "int8")  # less than a block
    assert torch.equal(network[1].weight, before[1].weight)
    assert torch.equal(network[0].bias, before[0].bias)
    size = sum(p.nbytes for name, p in network[0].named_parameters() if name != "bias")
    assert size == 64 * 128 * bytes_each
    quantize(network, kind)  # what is quantised already is left alone
    assert torch.equal(network[0].dequantized(), QuantizedLinear(before[0], kind).dequantized())


def test_nf4_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    network = nn.Sequential(nn.Linear(64, 64))
    with pytest.raises(ElfError) as error:
        quantize(network, "nf4")
    message = "model.quantization: nf4 needs bitsandbytes: pip install 'elf[8bit]', or take int8"
    assert str(error.value) == message
    quantize(network, "int8")
    assert isinstance(network[0], QuantizedLinear)
