"""Queries, keys and values in one product: what is done with a UNet and its adapter stays right."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from elf import adapters
from elf.adapters.joined import JoinedLayers
from elf.fused import fuse
from elf.generation import GenerationConfig, generate
from elf.tiny import base

Function = Callable[..., Any]


@pytest.fixture
def unets(make_unet: Function, adapted: Function) -> tuple[Any, Any]:
    """A plain and a fused UNet with the same adapter."""
    plain, unet = (adapted(make_unet(), targets="attention+feedforward") for _ in range(2))
    fuse(unet)
    return plain, unet


def attentions(unet: nn.Module) -> list[Any]:
    return [module for module in unet.modules() if isinstance(module, Attention)]


def joined(unet: nn.Module) -> bool:
    """Whether keys and values of each attention are parts of one tensor."""
    weights = [
        [layer.get_base_layer().weight for layer in (each.to_k, each.to_v)]
        for each in attentions(unet)
    ]
    places = [[weight.untyped_storage().data_ptr() for weight in pair] for pair in weights]
    return all(len(set(pair)) == 1 for pair in places)


def train(unet: Any, step: Function) -> list[dict[str, Tensor]]:
    """Return what two steps of SGD give."""
    results = []
    for _ in range(2):
        results.append(step(unet))
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if name in results[-1]:
                    parameter -= 0.01 * results[-1][name]
        adapters.refresh_norms(unet)
    return results


def test_it_trains(unets: tuple[Any, Any], step: Function, assert_same: Function) -> None:
    plain, unet = unets
    assert joined(unet)
    assert not joined(plain)
    for ours, wanted in zip(train(unet, step), train(plain, step), strict=True):
        assert_same(ours, wanted, 1e-4)


MOVES: dict[str, Function] = {
    "to another type and back": lambda unet: unet.double().float(),
    "to where it is": lambda unet: unet.to("cpu"),
    "copied": copy.deepcopy,
    "loaded again": lambda unet: unet.load_state_dict(unet.state_dict()) and unet,
    "weights assigned": lambda unet: (
        unet.load_state_dict(
            {name: tensor.clone() for name, tensor in unet.state_dict().items()}, assign=True
        )
        and unet
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_it_trains_wherever_the_weights_were_put(
    name: str, unets: tuple[Any, Any], step: Function, assert_same: Function
) -> None:
    plain, unet = unets
    trained = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    state = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    unet = MOVES[name](unet)
    for key, parameter in unet.named_parameters():
        parameter.requires_grad_(key in trained)
    for key, tensor in unet.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    for ours, wanted in zip(train(unet, step), train(plain, step), strict=True):
        assert_same(ours, wanted, 1e-4)
    assert joined(unet)


PRODUCTS: dict[str, tuple[dict[str, Any], bool]] = {
    "lora": ({}, True),
    "pissa": ({"init": "pissa"}, True),
    "dora": ({"kind": "dora"}, True),
    "dropout": ({"dropout": 0.1}, False),
    "other ranks": ({"groups": [adapters.AdapterGroup("to_v", rank=2)]}, False),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_it_is_one_product_where_it_can_be(
    name: str,
    make_unet: Function,
    adapted: Function,
    conditions: Function,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, joins = PRODUCTS[name]
    unet = adapted(make_unet(), **options)
    fuse(unet)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    adapters.reuse_norms(unet, torch.optim.SGD(trained))
    used, join = [], JoinedLayers.join
    monkeypatch.setattr(JoinedLayers, "join", lambda self: used.append(self) or join(self))
    for on, expected in ((True, len(attentions(unet)) if joins else 0), (False, 0)):
        adapters.set_enabled(unet, on)
        unet(**conditions(unet))
        assert len(used) == expected, f"adapter on: {on}"
        used.clear()


def test_other_weights_are_those_that_work(
    unets: tuple[Any, Any], step: Function, assert_same: Function
) -> None:
    """Of a base that is loaded after the weights were joined."""
    plain, unet = unets
    others = {name: 1.5 * tensor for name, tensor in plain.state_dict().items()}
    for each in (plain, unet):
        each.load_state_dict(others)
    assert_same(step(unet), step(plain))


def merged(unet: Any) -> None:
    for layer in adapters.layers(unet):
        layer.merge()


def merged_and_back(unet: Any) -> None:
    merged(unet)
    for layer in adapters.layers(unet):
        layer.unmerge()


def one_stronger(unet: Any) -> None:
    attentions(unet)[0].to_k.set_scale("default", 0.5)


def one_off(unet: Any) -> None:
    attentions(unet)[0].to_v.enable_adapters(enabled=False)


def off_and_on(unet: Any) -> None:
    with adapters.disabled(unet):
        pass


SWITCHES: dict[str, Function] = {
    "off": lambda unet: adapters.set_enabled(unet, enabled=False),
    "off and on": off_and_on,
    "diffusers: off": lambda unet: unet.disable_adapters(),
    "half": lambda unet: adapters.set_strength(unet, 0.5),
    "one stronger": one_stronger,
    "one off": one_off,
    "peft: merged": merged,
    "peft: merged and back": merged_and_back,
    "merged for good": adapters.merge,
}


@pytest.mark.parametrize("name", SWITCHES)
def test_an_adapter_is_switched_as_before(
    name: str, unets: tuple[Any, Any], conditions: Function
) -> None:
    plain, unet = unets
    before = unet(**conditions(unet), return_dict=False)[0]
    for each in unets:
        each._hf_peft_config_loaded = True  # as where diffusers put the adapter in
        SWITCHES[name](each)
    with torch.no_grad():
        ours, wanted = (each(**conditions(each), return_dict=False)[0] for each in (unet, plain))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    changes = name not in ("off and on", "peft: merged", "peft: merged and back", "merged for good")
    assert ((ours - before).abs().max() > 1e-3) == changes


def test_what_is_exported_is_what_was(unets: tuple[Any, Any]) -> None:
    plain, unet = (adapters.adapter_state(each) for each in unets)
    assert list(plain) == list(unet)
    assert all(torch.equal(tensor, unet[name]) for name, tensor in plain.items())


def test_a_validation_without_gradients_does_not_keep_it_from_training(
    unets: tuple[Any, Any], step: Function, conditions: Function, assert_same: Function
) -> None:
    """Lightning validates in inference mode, and may do so before the first step."""
    plain, unet = unets
    unet.double().float()  # moved: to be joined again
    with torch.inference_mode():
        unet(**conditions(unet))
    assert_same(step(unet), step(plain))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_pictures_are_those_of_the_plain_unet(kind: str, adapted: Function) -> None:
    torch.manual_seed(0)
    pipeline = base.pipeline()
    adapted(pipeline.unet.requires_grad_(requires_grad=False), kind=kind, rank=2).eval()
    config = GenerationConfig(steps=3, guidance=4, width=48, height=64, batch_size=2)

    def pictures() -> Tensor:
        made = generate(pipeline, ["wood_elf", "forest"], [0, 1], config, torch.device("cpu"), "np")
        return torch.stack([torch.as_tensor(each) for each in made])

    wanted = pictures()
    fuse(pipeline.unet)
    torch.testing.assert_close(pictures(), wanted, rtol=0, atol=1e-4)
    with adapters.disabled(pipeline.unet):
        assert (pictures() - wanted).abs().max() > 1e-3
