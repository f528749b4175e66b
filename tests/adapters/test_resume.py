"""A run in two parts has the weights of a run in one, bit for bit, whatever the adapter."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig

CONFIGS = {
    "lora": AdapterConfig(rank=4, rslora=True),
    "dora": AdapterConfig("dora", 4, targets="attention+feedforward+convolutions"),
    "dora input": AdapterConfig("dora", 4, axis="input", dropout=0.1),
    "pissa": AdapterConfig(rank=4, init="pissa_niter_2"),
    "olora": AdapterConfig("dora", 4, init="olora"),
}


class Run:
    def __init__(self, base: nn.Module, config: AdapterConfig) -> None:
        self.network = copy.deepcopy(base).train()
        adapters.inject(self.network, config)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-2)
        adapters.reuse_norms(self.network, self.optimizer)

    def steps(self, numbers: range) -> None:
        for number in numbers:
            torch.manual_seed(number)
            inputs = (torch.randn(2, 4, 8, 8), torch.tensor([number, 9]), torch.randn(2, 5, 32))
            self.optimizer.zero_grad()
            self.network(*inputs).sample.square().mean().backward()
            self.optimizer.step()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_in_two_parts(name: str, unet: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(5)
    whole = Run(unet, CONFIGS[name])
    whole.steps(range(4))
    torch.manual_seed(5)
    first = Run(unet, CONFIGS[name])
    first.steps(range(2))
    states = adapters.adapter_state(first.network), first.optimizer.state_dict()
    torch.save(states, tmp_path / "state")
    torch.manual_seed(6)  # another beginning: all of it comes from the state
    second = Run(unet, CONFIGS[name])
    adapter, optimizer = torch.load(tmp_path / "state", weights_only=True)
    adapters.load_adapter_state(second.network, adapter)
    second.optimizer.load_state_dict(optimizer)
    second.steps(range(2, 4))
    expected = adapters.adapter_state(whole.network)
    for key, tensor in adapters.adapter_state(second.network).items():
        assert torch.equal(tensor, expected[key]), key
