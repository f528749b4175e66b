"""DoRA's norms are never those of other weights, and are computed once a step where they may be."""

import copy
import pickle
from collections.abc import Callable

import jaxtyping
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from elf import adapters
from elf.adapters import AdapterConfig, dora
from elf.adapters.norms import closed_form, dora_layers

Fill = Callable[[nn.Module], None]
Predict = Callable[[nn.Module], torch.Tensor]
MIXED = AdapterConfig("dora", 4, 2, targets="attention+feedforward+convolutions")


class DataOptimizer(torch.optim.Optimizer):
    """Changes weights through ``.data``, unseen by version counters, as Prodigy does."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(0.01 * torch.ones_like(parameter))


OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.02),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.02, fused=True),
    "through .data": DataOptimizer,
}


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def fresh(network: nn.Module) -> nn.Module:
    """A copy, which computes its norms in each pass."""
    return copy.deepcopy(network)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_the_norms_of_a_whole_network_are_those_of_its_layers(
    unet: nn.Module, fill: Fill, axis: dora.Axis
) -> None:
    adapters.inject(unet, AdapterConfig(**{**vars(MIXED), "axis": axis}))
    fill(unet)
    adapted = dora_layers(unet)
    for layer, norm in zip(adapted, closed_form(adapted), strict=True):
        weight = layer.get_base_layer().weight.double()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        whole = dora.updated(weight, a.double(), b.double().flatten(1), 0.5)
        expected = dora.norm_squared(whole, axis).sqrt()
        torch.testing.assert_close(norm.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_each_step_the_kept_norms_are_new(
    unet: nn.Module, fill: Fill, predict: Predict, name: str
) -> None:
    adapters.inject(unet, MIXED)
    fill(unet)
    optimizer = OPTIMIZERS[name](trained(unet))
    adapters.reuse_norms(unet, optimizer)
    kept = [layer.norm() for layer in dora_layers(unet)]
    places = [norm.data_ptr() for norm in kept]
    before = [norm.clone() for norm in kept]
    for _ in range(2):
        for parameter in trained(unet):
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        assert torch.equal(predict(unet), predict(fresh(unet)))
    now = [layer.norm() for layer in dora_layers(unet)]
    assert [norm.data_ptr() for norm in now] == places  # a captured graph reads them there
    assert not any(torch.equal(a, b) for a, b in zip(now, before, strict=True))


def test_kept_norms_are_computed_once_a_step(
    unet: nn.Module, fill: Fill, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of passes; without the promise in each of them."""
    adapters.inject(unet, MIXED)
    fill(unet)
    calls = []
    norms = dora.norms
    monkeypatch.setattr(dora, "norms", lambda *a: calls.append(len(a[0])) or norms(*a))
    predict(unet)
    layers = len(dora_layers(unet))
    assert calls == [1] * layers
    calls.clear()
    optimizer = torch.optim.AdamW(trained(unet))
    adapters.reuse_norms(unet, optimizer)
    assert sum(calls) == layers
    assert len(calls) < layers / 4  # those of one shape together
    predict(unet)
    predict(unet)
    assert sum(calls) == layers
    optimizer.step()
    assert sum(calls) == 2 * layers


CHANGES = {
    "another state": lambda network, state: adapters.load_adapter_state(network, state),
    "another strength": lambda network, state: adapters.set_strength(network, 0.3),
    "weights edited": lambda network, state: [p.mul_(1.1) for p in trained(network)],
    "weights replaced": lambda network, state: [
        setattr(p, "data", p.data * 1.1) for p in trained(network)
    ],
    "base edited": lambda network, state: (
        network.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.base_layer.weight.mul_(2)
    ),
    "edited through .data": lambda network, state: [
        *[p.data.mul_(1.1) for p in trained(network)],
        adapters.refresh_norms(network),
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_norm_is_of_other_weights(
    unet: nn.Module, fill: Fill, predict: Predict, change: str
) -> None:
    adapters.inject(unet, MIXED)
    fill(unet)
    other = {key: tensor * 1.2 for key, tensor in adapters.adapter_state(unet).items()}
    adapters.reuse_norms(unet, torch.optim.AdamW(trained(unet)))
    before = predict(unet)
    with torch.no_grad():
        CHANGES[change](unet, other)
    assert not torch.equal(predict(unet), before)
    assert torch.equal(predict(unet), predict(fresh(unet)))


def test_a_resumed_run_has_the_norms_of_an_undisturbed_one(unet: nn.Module, fill: Fill) -> None:
    """To the last bit: the same layers are computed together, whatever asked for it."""
    adapters.inject(unet, MIXED)
    fill(unet)
    other = copy.deepcopy(unet)
    adapters.reuse_norms(unet, torch.optim.AdamW(trained(unet)))
    with torch.no_grad():
        for parameter in trained(other):
            parameter.zero_()
    adapters.reuse_norms(other, torch.optim.AdamW(trained(other)))
    adapters.load_adapter_state(other, adapters.adapter_state(unet))
    for mine, its in zip(dora_layers(unet), dora_layers(other), strict=True):
        assert torch.equal(mine.norm(), its.norm())


def test_looking_at_pictures_in_inference_mode_first_spoils_nothing(
    unet: nn.Module, fill: Fill, predict: Predict
) -> None:
    adapters.inject(unet, MIXED)
    fill(unet)
    with torch.inference_mode():
        predict(unet)
        adapters.reuse_norms(unet, torch.optim.AdamW(trained(unet)))
        predict(unet)
    text = torch.randn(1, 7, 32)
    unet(torch.randn(1, 4, 8, 8), torch.tensor([3]), text).sample.sum().backward()
    assert all(parameter.grad is not None for parameter in trained(unet))


@pytest.mark.parametrize("reuse", [False, True])
def test_gradients_under_checkpointing_are_the_same(
    unet: nn.Module, fill: Fill, reuse: bool
) -> None:
    adapters.inject(unet, MIXED)
    fill(unet)
    if reuse:
        adapters.reuse_norms(unet, torch.optim.AdamW(trained(unet)))
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32)

    def run() -> list[torch.Tensor]:
        unet.zero_grad()
        unet(sample, torch.tensor([3]), text).sample.square().sum().backward()
        return [parameter.grad.clone() for parameter in trained(unet)]

    plain = run()
    unet.train()
    unet.enable_gradient_checkpointing(
        gradient_checkpointing_func=lambda f, *a: checkpoint(f, *a, use_reentrant=False)
    )
    for one, other in zip(plain, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_copy_and_a_pickled_network_keep_no_promise(unet: nn.Module, predict: Predict) -> None:
    adapters.inject(unet, AdapterConfig("dora", 4))
    adapters.reuse_norms(unet, torch.optim.AdamW(trained(unet)))
    for other in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
        for parameter in trained(other):
            parameter.data.add_(0.01)  # unseen
        whole = predict(other)
        adapters.reuse_norms(other, torch.optim.AdamW(trained(other)))
        torch.testing.assert_close(predict(other), whole)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("axis", ["output", "input"])
def test_a_network_compiles_whole(
    fill: Fill, axis: dora.Axis, reuse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # no graph can hold its checks
    network = nn.Sequential(nn.Linear(8, 12), nn.Conv2d(3, 4, 1))
    adapters.inject(network, AdapterConfig("dora", 2, targets=["0", "1"], axis=axis))
    fill(network)
    if reuse:
        adapters.reuse_norms(network, torch.optim.AdamW(trained(network)))
    inputs = torch.randn(2, 3, 5, 8)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), network(inputs))


def test_lora_needs_no_norms(unet: nn.Module) -> None:
    adapters.inject(unet, AdapterConfig(rank=4))
    adapters.reuse_norms(unet, torch.optim.AdamW(trained(unet)))
    adapters.refresh_norms(unet)
    assert dora_layers(unet) == []
