"""Every kind of adapter in a real (tiny) UNet and text encoder: new, off, trained, taken home."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.errors import ElfError

Fill = Callable[[nn.Module], None]
Predict = Callable[[nn.Module], torch.Tensor]

KINDS = {
    "lora": {},
    "dora": {"kind": "dora"},
    "dora input": {"kind": "dora", "axis": "input"},
}
SCALES = {"": {}, "rslora": {"rslora": True}}
INITS = {
    "kaiming": {},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "pissa": {"init": "pissa"},
    "pissa_niter": {"init": "pissa_niter_4"},
    "olora": {"init": "olora"},
}
TARGETS = {
    "attention": {},
    "feedforward": {"targets": "attention+feedforward", "text_targets": "attention+feedforward"},
    "convolutions": {"targets": "attention+feedforward+convolutions"},
    "patterns": {
        "targets": ["up_blocks.0.*.to_?", r"re:mid_block\..*to_out\.0"],
        "text_targets": ["encoder.layers.1.*", "q_proj"],
        "groups": [
            {"pattern": "to_q", "rank": 2},
            {"pattern": "mid_block.*", "rank": 6, "alpha": 5},
            {"pattern": "text_encoder.*.fc1", "rank": 2, "alpha": 3, "lr_scale": 0.5},
        ],
    },
}
LINEAR_ONLY = {"orthogonal", "pissa", "pissa_niter", "olora"}
TABLE = [
    pytest.param({**KINDS[kind], **SCALES[scale], **INITS[init], **TARGETS[targets]}, id=name)
    for kind in KINDS
    for scale in SCALES
    for init in INITS
    for targets in TARGETS
    # every pair of two columns that can be is somewhere in the table
    if not (init in LINEAR_ONLY and targets == "convolutions")
    and (
        (init == "kaiming" and (scale or targets == "convolutions"))
        or (targets == "patterns" and scale)
        or (targets in ("attention", "feedforward") and not scale)
    )
    for name in [" ".join(filter(None, (kind, scale, init, targets)))]
]
# a third in the short column, in which each kind, scale, initialisation and preset occurs
TABLE = [
    pytest.param(*row.values, id=row.id, marks=[pytest.mark.slow] * (number % 3 > 0))
    for number, row in enumerate(TABLE)
]


def config_of(values: dict[str, Any]) -> AdapterConfig:
    return AdapterConfig(**{"rank": 4, "alpha": 3, "text_targets": "attention", **values})


@pytest.mark.parametrize("values", TABLE)
def test_an_adapter(
    values: dict[str, Any],
    pipeline: Any,
    fill: Fill,
    predict: Predict,
    tmp_path: Path,
) -> None:
    """New it changes nothing, off it is the base, it trains, resumes, and diffusers loads it."""
    config = config_of(values)
    networks = {part: getattr(pipeline, part).eval() for part in ("unet", "text_encoder")}
    bare = copy.deepcopy(networks)
    base = {part: predict(network) for part, network in networks.items()}
    adapters.inject_all(networks, config)
    for part, network in networks.items():
        exact = config.init != "orthogonal"  # BA = 0 on paper alone
        tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(predict(network), base[part], **tolerance)
        fill(network)
        assert (predict(network) - base[part]).abs().max() > 1e-3
        with adapters.disabled(network):
            assert torch.equal(predict(network), base[part])
        trains_a_step(network)
        other = copy.deepcopy(bare[part])
        adapters.inject(other, config, part)
        adapters.load_adapter_state(other, adapters.adapter_state(network))
        assert torch.equal(predict(other), predict(network))
        adapters.merge(other)
        torch.testing.assert_close(predict(other), predict(network), rtol=1e-3, atol=1e-4)
        assert other.state_dict().keys() == bare[part].state_dict().keys()
    if config.axis == "input":
        return  # no file of others can hold it: tests/adapters/test_files.py
    file, expected = written(networks, config, tmp_path), {}
    for part, network in networks.items():
        expected[part] = predict(network)
        setattr(pipeline, part, bare[part])
    pipeline.load_lora_weights(str(file))
    for part, network in bare.items():
        torch.testing.assert_close(predict(network), expected[part], rtol=1e-4, atol=1e-5)


def trains_a_step(network: nn.Module) -> None:
    """Each trained tensor moves, and nothing else does."""
    before = {name: p.clone() for name, p in network.named_parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0)
    adapters.reuse_norms(network, optimizer)
    if hasattr(network, "conv_in"):
        text = torch.randn(1, 7, 32)
        output = network(torch.randn(1, 4, 8, 8), torch.tensor([7]), text).sample
    else:
        output = network(torch.arange(3, 10)[None])[0]
    output.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def written(networks: dict[Any, nn.Module], config: AdapterConfig, folder: Path) -> Path:
    header: dict[str, Any] = {}
    tensors = {}
    for part, network in networks.items():
        state = adapters.adapter_state(network)
        own = adapters.metadata(config, state, part)
        header |= {f"{part}.{key}": value for key, value in own.items()}
        whole = adapters.without_initial(state)
        tensors |= {f"{part}.{key}": value.contiguous() for key, value in whole.items()}
    file = folder / "adapter.safetensors"
    save_file(tensors, file, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(header)})
    return file


def test_only_the_adapter_is_trained_and_it_is_float32(unet: nn.Module) -> None:
    unet.half()
    record = adapters.inject(unet, AdapterConfig("dora", rank=4, targets=["to_q", "conv1"]))
    trained = 0
    for name, parameter in unet.named_parameters():
        ours = adapters.is_adapter_key(name)
        assert parameter.requires_grad == ours
        assert parameter.dtype == (torch.float32 if ours else torch.float16)
        trained += ours * parameter.numel()
    assert record.parameters == trained
    assert record.modules == len(adapters.layers(unet))


def test_the_record_says_what_is_trained_where(unet: nn.Module, text_encoder: nn.Module) -> None:
    record = adapters.inject(unet, AdapterConfig(rank=4, targets=["mid_block.*.to_q", "conv_in"]))
    assert record.blocks == {"conv_in": (1, 4 * (4 * 9 + 32)), "mid_block": (2, 2 * 4 * 128)}
    assert record.summary_lines() == [
        "unet: 3 layers, 1,296 parameters trained",
        "  conv_in: 1 layers, 272 parameters",
        "  mid_block: 2 layers, 1,024 parameters",
    ]
    frozen = adapters.inject(text_encoder, AdapterConfig(), "text_encoder")
    assert frozen.summary_lines() == ["text_encoder: frozen"]
    assert not any(parameter.requires_grad for parameter in text_encoder.parameters())


def test_groups_have_their_own_learning_rates(unet: nn.Module) -> None:
    groups = [adapters.AdapterGroup("mid_block.*", 2, lr_scale=0.1)]
    record = adapters.inject(unet, AdapterConfig(rank=4, groups=groups))
    (first, most), (second, few) = adapters.learning_rate_groups(unet, record)
    assert (first, second) == (1.0, 0.1)
    assert {p.shape[0] for name, p in few.items() if ".lora_A." in name} == {2}
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    assert {**most, **few} == trained
    assert len(most) + len(few) == len(trained)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["kaiming", "pissa"])
def test_delta_weight_is_what_each_layer_adds(
    unet: nn.Module, fill: Fill, kind: str, init: str
) -> None:
    targets = ["to_q", "to_out.0"] + ["conv1", "proj_in"] * (init == "kaiming")
    config = AdapterConfig(**KINDS[kind], rank=4, alpha=2, targets=targets, init=init)
    adapters.inject(unet, config)
    fill(unet)
    for layer in adapters.layers(unet):
        base = layer.get_base_layer()
        changed = copy.deepcopy(base)
        with torch.no_grad():
            changed.weight.add_(adapters.delta_weight(layer))
            shape = (3, layer.in_features, 5, 5)[: 2 if isinstance(base, nn.Linear) else 4]
            inputs = torch.randn(shape)
            torch.testing.assert_close(layer(inputs), changed(inputs), rtol=1e-4, atol=1e-5)


def test_strength_scales_the_update(unet: nn.Module, fill: Fill) -> None:
    adapters.inject(unet, AdapterConfig(rank=4, alpha=8, rslora=True))
    fill(unet)
    layer = adapters.layers(unet)[0]
    assert layer.scaling["default"] == 4
    whole = adapters.delta_weight(layer)
    adapters.set_strength(unet, 0.25)
    torch.testing.assert_close(adapters.delta_weight(layer), whole / 4)


def test_dora_at_strength_0_keeps_its_magnitudes(
    unet: nn.Module, fill: Fill, predict: Predict
) -> None:
    base = predict(unet)
    adapters.inject(unet, AdapterConfig("dora", 4))
    fill(unet)
    adapters.set_strength(unet, 0)
    assert (predict(unet) - base).abs().max() > 1e-3
    layer = adapters.layers(unet)[0]
    weight = layer.get_base_layer().weight
    rescaled = layer.lora_magnitude_vector["default"].weight / weight.norm(dim=1)
    torch.testing.assert_close(
        adapters.delta_weight(layer), (rescaled[:, None] - 1) * weight, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("axis", ["output", "input"])
def test_rows_of_zeros_stay_what_they_are(axis: str) -> None:
    network = nn.Sequential(nn.Linear(6, 6))
    with torch.no_grad():
        network[0].weight[2] = 0
        network[0].weight[:, 3] = 0
    inputs = torch.randn(4, 6)
    base = network(inputs)
    adapters.inject(network, AdapterConfig("dora", 2, targets=["0"], axis=axis))
    output = network(inputs)
    assert torch.equal(output, base)
    output.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert torch.equal(adapters.delta_weight(network[0]).abs() < 1e-6, torch.ones(6, 6).bool())


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
