"""Adapters that begin from data: as peft's do, on a base that stays what it was."""

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraGAConfig
from peft.tuners.lora.config import CordaConfig, EvaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import get_eva_state_dict
from peft.tuners.lora.loraga import preprocess_loraga
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from elf import adapters
from elf.adapters import AdapterConfig
from elf.adapters.factored import base_weight
from elf.adapters.initial import corda, eva, lora_ga, pissa
from elf.adapters.observing import Moments, input_moments, weight_gradients
from elf.errors import ElfError
from elf.quantized import quantize
from elf.training.beginning import begin_from_data, set_factors

RANK, ALPHA = 3, 6
INITS = ["eva", "corda", "lora_ga"]


class Network(nn.Module):
    """Three layers; the first two see one input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.q(x).tanh() * self.k(x))
        return result


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def batches() -> list[torch.Tensor]:
    """Rows whose axes matter in falling measure, around a mean that is not zero."""
    random = torch.Generator().manual_seed(1)
    return [torch.randn(2, 40, 12, generator=random) * 0.6 ** torch.arange(12) + 1 for _ in "ab"]


def losses(network: nn.Module) -> Callable[[], Iterator[torch.Tensor]]:
    return lambda: (network(batch).square().mean() for batch in batches())


def begun(network: nn.Module, init: str, **values: Any) -> nn.Module:
    config = AdapterConfig(rank=RANK, alpha=ALPHA, targets=["q", "k", "out"], init=init, **values)
    adapters.inject(network, config)
    with adapters.disabled(network):
        set_factors({"unet": network}, init, losses(network))
    return network


def factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def assert_same_axes(mine: torch.Tensor, its: torch.Tensor) -> None:
    """Rows have the same directions, but for their signs."""
    cosines = functional.cosine_similarity(mine, its.float())
    torch.testing.assert_close(cosines.abs(), torch.ones(len(mine)), atol=1e-3, rtol=0)


def peft_settings(init: str, **values: Any) -> LoraConfig:
    return LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["q", "k", "out"],
        init_lora_weights=init,
        **values,
    )


def test_moments_are_those_of_all_rows() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).cumsum(1) + 30
    moments = Moments()
    for part in rows.split([1, 20, 29]):
        moments.add(part)
    exact = rows.double()
    assert moments.count == 50
    covariance = torch.cov(exact.T, correction=0)
    torch.testing.assert_close(moments.covariance().double(), covariance, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments.second().double(), exact.T @ exact / 50, rtol=1e-5, atol=0)


def test_layers_with_one_input_share_its_moments(network: Network) -> None:
    layers = dict(network.named_children())
    with input_moments(layers) as found:
        for _ in losses(network)():
            pass
    assert found["q"] is found["k"] is not found["out"]
    assert found["q"].count == found["out"].count == 2 * 80
    network(batches()[0])
    assert found["q"].count == 2 * 80, "what comes afterwards is not looked at"


def test_eva_begins_where_peft_does(network: Network) -> None:
    theirs = copy.deepcopy(network)
    begun(network, "eva")
    settings = peft_settings("eva", eva_config=EvaConfig(rho=1.0, tau=0.999))
    state = get_eva_state_dict(
        theirs,
        [{"x": torch.cat(batches())}],
        settings,
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    assert state.keys() == {"q", "k", "out"}
    for name, axes in state.items():
        a, b = factors(network.get_submodule(name))
        assert_same_axes(a, axes)
        torch.testing.assert_close(a.norm(dim=1), torch.ones(RANK))
        assert not b.any()


def test_corda_begins_where_peft_does(network: Network) -> None:
    theirs = copy.deepcopy(network)
    begun(network, "corda")
    settings = peft_settings("corda", corda_config=CordaConfig(corda_method="ipm"))
    for module in (
        theirs.q,
        theirs.k,
    ):  # all rows at once: peft scales each call's by their maximum
        module.register_forward_pre_hook(lambda _, arguments: (arguments[0].flatten(0, -2),))
    preprocess_corda(theirs, settings, lambda: theirs(torch.cat(batches())))
    weights = {name: module.weight.clone() for name, module in theirs.named_children()}
    inject_adapter_in_model(settings, theirs)
    for name, weight in weights.items():
        (a, b), (its_a, its_b) = (factors(n.get_submodule(name)) for n in (network, theirs))
        torch.testing.assert_close(b @ a, its_b @ its_a, rtol=1e-3, atol=1e-4)
        assert torch.equal(base_weight(network.get_submodule(name)), weight)
        assert not torch.equal(base_weight(theirs.get_submodule(name)), weight)


def test_corda_of_white_inputs_is_pissa() -> None:
    weight = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    for mine, its in zip(
        corda(weight, 5 * torch.eye(7), 3, 2.0), pissa(weight, 3, 2.0, None), strict=True
    ):
        torch.testing.assert_close(mine.abs(), its.abs(), rtol=1e-3, atol=1e-3)


def test_corda_keeps_what_matters_to_its_inputs() -> None:
    """A rank that the inputs do not leave loses nothing of the output."""
    random = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(9, 7, generator=random), torch.randn(50, 2, generator=random)
    inputs = inputs @ torch.randn(2, 7, generator=random)
    a, b = corda(weight, inputs.T @ inputs / 50, 2, 0.5)
    torch.testing.assert_close(inputs @ (0.5 * b @ a).T, inputs @ weight.T, rtol=0.05, atol=0.05)


def test_lora_ga_begins_where_peft_does(network: Network) -> None:
    theirs = copy.deepcopy(network)
    begun(network, "lora_ga")
    settings = peft_settings("lora_ga", lora_ga_config=LoraGAConfig(stable_gamma=16))

    def train_step() -> None:
        for batch in batches():  # which peft's hooks want to take a gradient
            theirs(batch.requires_grad_()).square().mean().backward()

    preprocess_loraga(theirs, settings, train_step)
    theirs = get_peft_model(theirs, settings).base_model.model
    for name in ("q", "k", "out"):
        (a, b), (its_a, its_b) = (factors(n.get_submodule(name)) for n in (network, theirs))
        assert_same_axes(a, its_a)
        assert_same_axes(b.T, its_b.T)
        scale = len(b) ** 0.25 / 16**0.5  # the paper's, of both
        torch.testing.assert_close(a.norm(dim=1), torch.full((RANK,), scale))
        torch.testing.assert_close(b.norm(dim=0), torch.full((RANK,), scale))


def test_lora_ga_steps_where_the_weight_would(network: Network) -> None:
    """As near as its rank lets it: the best approximation of G of rank 2r (theorem 3.1)."""
    layers = {name: copy.deepcopy(network).get_submodule(name) for name in ("q", "k", "out")}
    assert layers
    plain = copy.deepcopy(network)
    gradients = {}
    for loss in losses(plain)():
        loss.backward()
    for name, module in plain.named_children():
        gradients[name] = module.weight.grad
    begun(network, "lora_ga")
    for loss in losses(network)():
        loss.backward()
    for name, gradient in gradients.items():
        a, b = factors(network.get_submodule(name))
        step = b.grad @ a + b @ a.grad
        left, values, right = torch.linalg.svd(gradient, full_matrices=False)
        best = (left[:, : 2 * RANK] * values[: 2 * RANK]) @ right[: 2 * RANK]
        cosine = functional.cosine_similarity(step.flatten(), best.flatten(), dim=0)
        assert cosine > 0.999, name


@pytest.mark.parametrize("way", ["plain", "checkpointed", "nf4", "int8"])
def test_gradients_are_those_of_the_weight(network: Network, way: str) -> None:
    if way in ("nf4", "int8"):
        network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))  # type: ignore
        inputs = torch.randn(5, 64)
        quantize(network, way)  # type: ignore[arg-type]
    else:
        inputs = batches()[0]
    layers = {n: m for n, m in network.named_modules() if n and not isinstance(m, nn.Tanh)}
    network.requires_grad_(False)
    with weight_gradients(layers) as found:
        for _ in range(2):
            run = (
                checkpoint(network, inputs, use_reentrant=False) if way == "checkpointed" else None
            )
            (network(inputs) if run is None else run).square().mean().backward()
    for name, layer in layers.items():
        if way in ("nf4", "int8"):
            plain = nn.Linear(64, 64)
            plain.weight.data, plain.bias.data = layer.dequantized(), layer.bias.data
            network[int(name)] = plain  # type: ignore[index,operator]
    network.requires_grad_(True)
    (2 * network(inputs).square().mean()).backward()
    for name in layers:
        exact = network.get_submodule(name).weight.grad
        torch.testing.assert_close(found[name], exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("init", INITS)
def test_a_unet_stays_what_it_was(
    unet: nn.Module, predict: Callable[[nn.Module], torch.Tensor], init: str, kind: str
) -> None:
    before = predict(unet)
    adapters.inject(unet, AdapterConfig(kind, 4, targets="attention+feedforward", init=init))  # type: ignore
    fresh = {key: value.clone() for key, value in adapters.adapter_state(unet).items()}
    random = torch.Generator().manual_seed(0)
    latents, text = (torch.randn(size, generator=random) for size in ((2, 4, 8, 8), (2, 7, 32)))

    def passes() -> Iterator[torch.Tensor]:
        yield unet(latents, torch.tensor([5, 900]), text, return_dict=False)[0].square().mean()

    with adapters.disabled(unet):
        set_factors({"unet": unet}, init, passes)
    state = adapters.adapter_state(unet)
    assert all(not torch.equal(state[key], fresh[key]) for key in state if key.endswith("A.weight"))
    assert torch.equal(predict(unet), before)
    assert adapters.changes_nothing(state)


def test_gradients_that_fp16_cannot_hold_are_scaled_down() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    inputs = torch.randn(4, 16) * 0.5 ** torch.arange(4)[:, None]
    found = []
    for dtype in (torch.float32, torch.float16):
        half = copy.deepcopy(network).to(dtype)
        adapters.inject(half, AdapterConfig(rank=2, targets=["0", "1"], init="lora_ga"))

        def passes(half: nn.Module = half, dtype: torch.dtype = dtype) -> Iterator[torch.Tensor]:
            yield 10 * half(inputs.to(dtype)).float().square().sum()

        with adapters.disabled(half):
            set_factors({"unet": half}, "lora_ga", passes)
        found.append([factors(layer) for layer in half])
    for (a, b), (half_a, half_b) in zip(*found, strict=True):
        for mine, its in ((a, half_a), (b.T, half_b.T)):
            cosines = functional.cosine_similarity(mine, its)
            assert (cosines.abs() > 0.99).all(), "the scale that overflowed counts for nothing"


def test_a_layer_that_no_gradient_reaches_stays_as_it_is(network: Network) -> None:
    adapters.inject(network, AdapterConfig(rank=2, targets=["q", "out"], init="lora_ga"))
    a = factors(network.q)[0].clone()
    with adapters.disabled(network):
        set_factors(
            {"unet": network},
            "lora_ga",
            lambda: (network(batch.detach() * 0).sum() for batch in batches()),
        )
    assert torch.equal(factors(network.q)[0], a) and not factors(network.q)[1].any()
    assert lora_ga(torch.zeros(4, 4), 2) is None


@pytest.mark.parametrize("init", ["eva", "corda"])
def test_a_layer_that_sees_nothing_is_refused(network: Network, init: str) -> None:
    network.unused = nn.Linear(12, 16)  # type: ignore[assignment]
    adapters.inject(network, AdapterConfig(rank=2, targets=["q", "unused"], init=init))
    with pytest.raises(ElfError) as error:
        set_factors({"unet": network}, init, losses(network))
    assert str(error.value) == (
        f"model.adapter.init: unet.unused sees no input in training, from which {init} could "
        "begin; leave it out of the targets"
    )


@pytest.mark.parametrize("init", INITS)
def test_what_is_not_finite_is_refused(network: Network, init: str) -> None:
    adapters.inject(network, AdapterConfig(rank=2, targets=["q"], init=init))
    with adapters.disabled(network), pytest.raises(ElfError) as error:
        set_factors(
            {"unet": network},
            init,
            lambda: (network(batch * float("inf")).mean() for batch in batches()),
        )
    assert str(error.value) == (
        f"model.adapter.init: what unet.q sees is not finite, so {init} cannot begin; train in "
        "bf16-mixed or 32-true, or take kaiming"
    )


def test_data_that_give_no_samples_are_refused(network: Network) -> None:
    adapter = AdapterConfig(init="eva")
    module = SimpleNamespace(adapter=adapter, networks=network, device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(datamodule=object())
    with pytest.raises(ElfError) as error:
        begin_from_data(module, trainer)
    assert str(error.value) == (
        "model.adapter.init: eva begins from the first samples of a ShardDataModule; train with "
        "one, or take kaiming"
    )


def test_eva_has_no_more_axes_than_asked() -> None:
    a = eva(torch.diag(torch.tensor([1.0, 4.0, 2.0, 0.1])), 2)
    torch.testing.assert_close(a.abs(), torch.eye(4)[[1, 2]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("init", INITS)
def test_convolutions_are_refused(init: str) -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 1))
    with pytest.raises(ElfError, match=f"init: {init} is for linear layers, and 0 is a conv"):
        adapters.inject(network, AdapterConfig(rank=2, targets=["0"], init=init))


def test_lora_ga_needs_twice_its_rank() -> None:
    network = nn.Sequential(nn.Linear(8, 12))
    with pytest.raises(ElfError, match=r"lora_ga has no 5 directions in 0.*take at most 4"):
        adapters.inject(network, AdapterConfig(rank=5, targets=["0"], init="lora_ga"))
