"""‖ΔW‖ / ‖W‖ by the closed form, against ΔW itself."""

from typing import Any

import pytest
import torch
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.training.adapter_norms import (
    block_of,
    change_squares,
    named_layers,
    relative_changes,
    weight_squares,
)


class Network(nn.Module):
    """Two blocks with what adapters are put on: a linear layer and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        layers = {"to_q": nn.Linear(12, 10), "conv1": nn.Conv2d(6, 8, 3, padding=1)}
        self.down_blocks = nn.ModuleList([nn.ModuleDict(layers)])
        alike = {name: nn.Linear(5, 7, bias=False) for name in ("to_q", "to_k")}
        self.mid_block = nn.ModuleDict(alike)


def network(kind: Any) -> Network:
    torch.manual_seed(0)
    made = Network()
    targets = ["to_q", "conv1"]
    adapters.inject(made, AdapterConfig(kind, rank=3, alpha=6, targets=targets))
    for name, parameter in made.named_parameters():
        if adapters.is_adapter_key(name):
            nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_closed_form_is_the_norm_of_the_update(kind: str) -> None:
    made = network(kind)
    layers = named_layers(made)
    squares = change_squares(layers)
    assert set(squares) == set(layers)
    for name, layer in layers.items():
        torch.testing.assert_close(
            squares[name], adapters.delta_weight(layer).square().sum(), rtol=1e-5, atol=1e-6
        )


def test_blocks_are_measured_apart_and_together() -> None:
    made = network("lora")
    found = relative_changes(made, weight_squares(made))
    assert set(found) == {"all", "down_blocks.0", "mid_block"}
    middle = made.mid_block["to_q"]
    weight = middle.get_base_layer().weight
    wanted = adapters.delta_weight(middle).norm() / weight.norm()
    torch.testing.assert_close(found["mid_block"], wanted)
    low, high = sorted([float(found["down_blocks.0"]), float(found["mid_block"])])
    assert low < float(found["all"]) < high


def test_a_new_adapter_has_changed_nothing() -> None:
    made = Network()
    adapters.inject(made, AdapterConfig(rank=2, targets=["to_q"]))
    assert float(relative_changes(made, weight_squares(made))["all"]) == 0


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("unet.down_blocks.0.attentions.0.to_q", "down_blocks.0"),
        ("mid_block.attentions.0.to_q", "mid_block"),
        ("unet.up_blocks.11.resnets.0.conv1", "up_blocks.11"),
        ("text_encoder_2.encoder.layers.3.q_proj", "text_encoder_2"),
        ("transformer.single_transformer_blocks.7.attn.to_q", "single_transformer_blocks.7"),
        ("unet.conv_in", "unet"),
    ],
)
def test_a_layers_block_is_in_its_name(name: str, block: str) -> None:
    assert block_of(name) == block
