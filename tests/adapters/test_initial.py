"""How A and B begin: as in peft, on a base that stays what it was."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.errors import ElfError

INITS = ["kaiming", "gaussian", "orthogonal", "pissa", "pissa_niter_8", "olora"]
SUBTRACTING = ["pissa", "pissa_niter_8", "olora"]


def factors(network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return network[0].lora_A["default"].weight, network[0].lora_B["default"].weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("init", INITS)
def test_a_and_b_are_those_of_peft(init: str, kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(12, 20))
    with torch.no_grad():  # falling singular values, which a randomized decomposition finds
        ours[0].weight.mul_(0.5 ** torch.arange(12))
    ours.to(dtype)
    theirs = copy.deepcopy(ours)
    weight = ours[0].weight.clone()
    torch.manual_seed(1)
    adapters.inject(ours, AdapterConfig(kind, 4, 6, ["0"], init=init))
    torch.manual_seed(1)
    settings = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["0"],
        init_lora_weights=True if init == "kaiming" else init,
        use_dora=kind == "dora",
    )
    inject_adapter_in_model(settings, theirs)
    assert torch.equal(ours[0].get_base_layer().weight, weight)  # peft's is another now
    mine, its = (b.float() @ a.float() for a, b in map(factors, (ours, theirs)))
    # the randomized decomposition draws at another time than peft's; the product is the same
    torch.testing.assert_close(mine, its, rtol=1e-2, atol=1e-3 if dtype == torch.float16 else 1e-5)
    if init in SUBTRACTING:
        assert not torch.equal(theirs[0].get_base_layer().weight, weight)


@pytest.mark.parametrize("init", SUBTRACTING)
def test_trained_values_give_the_network_that_peft_has(init: str) -> None:
    """W₀ + s (BA − B₀A₀) here, W₀ − s B₀A₀ + s BA there; gradients of A and B are the same."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(12, 20))
    theirs = copy.deepcopy(ours)
    adapters.inject(ours, AdapterConfig("lora", 4, 6, ["0"], init=init))
    settings = LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=init)
    inject_adapter_in_model(settings, theirs)
    inputs = torch.randn(3, 12)
    begun = [factors(network) for network in (ours, theirs)]
    with torch.no_grad():
        # where two decompositions differ in signs, peft's network takes on Elf's
        (a, b), (its_a, its_b) = begun
        theirs[0].get_base_layer().weight.add_(1.5 * (its_b @ its_a - b @ a))
        its_a.copy_(a)
        its_b.copy_(b)
        for pair in begun:
            random = torch.Generator().manual_seed(3)
            for tensor in pair:
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=random))
    for network in (ours, theirs):
        network(inputs).square().sum().backward()
    torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)
    for part in ("lora_A", "lora_B"):
        mine, its = (getattr(n[0], part)["default"].weight.grad for n in (ours, theirs))
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("init", SUBTRACTING)
def test_a_resumed_run_measures_from_where_it_began(
    unet: nn.Module,
    fill: Callable[[nn.Module], None],
    predict: Callable[[nn.Module], torch.Tensor],
    init: str,
) -> None:
    """Even where the decomposition comes out differently: A₀ and B₀ are in the state."""
    other = copy.deepcopy(unet)
    config = AdapterConfig("dora", 4, 2, init=init)
    adapters.inject(unet, config)
    fill(unet)
    adapters.inject(other, config)
    for name, buffer in other.named_buffers():
        if "lora_initial" in name:
            buffer.neg_()
    state = {key: tensor.clone() for key, tensor in adapters.adapter_state(unet).items()}
    adapters.load_adapter_state(other, state)
    assert torch.equal(predict(other), predict(unet))
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert not any("initial" in name for name in trained)


@pytest.mark.parametrize(
    ("init", "values", "message"),
    [
        ("pissa", {"targets": ["conv1"]}, "init: pissa is for linear layers, and down_blocks.0"),
        ("olora", {"rank": 97}, "olora has no 97 directions in down_blocks.1.attentions.0"),
        ("pissa_niter_2", {"rank": 97}, "whose weight is 64 × 64; take at most 64"),
        ("orthogonal", {"targets": ["conv1"]}, "init: orthogonal is for linear layers, and down"),
    ],
)
def test_what_has_no_such_beginning_is_refused_before_anything_is_changed(
    unet: nn.Module, init: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ElfError, match=re.escape(message)):
        adapters.inject(unet, AdapterConfig(init=init, **values))
    assert not adapters.layers(unet)
