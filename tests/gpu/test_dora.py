"""DoRA in a captured graph reads the norms that are computed after each optimizer step."""

import copy

import pytest
import torch
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.adapters.dora import Axis

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


# torch warns of every network whose gradients were accumulated before it was captured
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream")
@pytest.mark.parametrize("axis", ["output", "input"])
def test_a_captured_step_gives_the_losses_of_an_eager_one(axis: Axis) -> None:
    torch.manual_seed(0)
    eager = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
    adapters.inject(eager, AdapterConfig("dora", 4, targets=["0", "2"], axis=axis))
    eager.cuda()
    graphed = copy.deepcopy(eager)
    inputs = torch.randn(16, 32, device="cuda")
    losses: dict[str, list[float]] = {}
    for name, network in (("eager", eager), ("graphed", graphed)):
        trained = [p for p in network.parameters() if p.requires_grad]
        # not Adam: what is only rounding it makes a whole step of
        optimizer = torch.optim.SGD(trained, lr=1.0)
        forward = network
        if name == "graphed":  # the eager one computes its norms in each pass
            adapters.reuse_norms(network, optimizer)
            forward = torch.cuda.make_graphed_callables(network, (inputs.clone(),))
        losses[name] = []
        for _ in range(20):
            # not zeroed in place: a graph's gradients are its own tensors, and would be added twice
            optimizer.zero_grad(set_to_none=True)
            loss = (forward(inputs) - inputs.flip(1)).square().mean()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    assert losses["eager"][-1] < 0.9 * losses["eager"][0]
    assert losses["graphed"] == pytest.approx(losses["eager"], rel=1e-4)


def test_norms_can_be_captured_themselves() -> None:
    """Nothing in them waits for the device."""
    network = nn.Sequential(nn.Linear(32, 64), nn.Conv2d(8, 4, 3)).half().cuda()
    adapters.inject(network, AdapterConfig("dora", 4, targets=["0", "1"]))
    trained = [p for p in network.parameters() if p.requires_grad]
    adapters.reuse_norms(network, torch.optim.AdamW(trained))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        adapters.refresh_norms(network)
    with torch.no_grad():
        for parameter in trained:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    graph.replay()
    kept = [layer.norm().clone() for layer in network]
    adapters.refresh_norms(network)
    for layer, norm in zip(network, kept, strict=True):
        torch.testing.assert_close(layer.norm(), norm)
