"""Elf's kernels for a UNet on a card, at sizes of SD1.5 and SDXL, beside float64.

Run with `pytest -m gpu tests/gpu/test_fused.py`. Triton compiles each variant for half a second, so
there are few of them.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from elf import adapters
from elf.adapters import AdapterConfig
from elf.fused import fuse
from elf.fused.operators import add_with_bias, geglu, group_norm
from elf.kernels import can_compile
from elf.tiny import base

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LAST = torch.channels_last
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
GIB = 1 << 30


@pytest.fixture(autouse=True)
def _triton() -> None:
    pytest.importorskip("triton", reason="needs Triton")


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda")


def near(ours: Tensor, wanted: Tensor) -> None:
    limit = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours.double(), wanted.double(), rtol=limit, atol=limit)


def norm(groups: int, channels: int, dtype: torch.dtype) -> nn.GroupNorm:
    layer = nn.GroupNorm(groups, channels, eps=1e-5).cuda()
    layer.weight.data.copy_(1 + 0.2 * normal(channels, seed=1))
    layer.bias.data.copy_(0.2 * normal(channels, seed=2))
    return layer.to(dtype).requires_grad_(requires_grad=False)


def exact_norm(layer: nn.GroupNorm, x: Tensor, shift: Tensor | None, silu: bool) -> Tensor:
    value = x if shift is None else x + shift[..., None, None]
    weight, bias = layer.weight.double(), layer.bias.double()
    out = functional.group_norm(value, layer.num_groups, weight, bias, layer.eps)
    return functional.silu(out) if silu else out


def test_a_card_is_fused_for() -> None:
    assert can_compile(torch.device("cuda"))
    assert can_compile(torch.device("cuda", 0))


SIZES = [  # pictures, channels, rows, columns
    (1, 320, 64, 64),
    (2, 1920, 32, 32),
    (8, 640, 32, 32),
    (1, 2560, 8, 8),
    (2, 96, 40, 41),
    (1, 2560, 1, 1),
]
CASES = [
    *((size, torch.float16, True) for size in SIZES),
    *(
        (size, dtype, True)
        for size in (SIZES[0], SIZES[4])
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *((size, torch.float16, False) for size in (SIZES[0], SIZES[4])),
]


@pytest.mark.parametrize(("size", "dtype", "whole"), CASES, ids=str)
def test_the_norm(size: tuple[int, ...], dtype: torch.dtype, whole: bool) -> None:
    """Whole: with a shift and SiLU. The same bits in each run."""
    layer = norm(32, size[1], dtype)
    x = (normal(*size, seed=3) + 3).to(dtype).contiguous(memory_format=LAST).requires_grad_()
    shift = normal(*size[:2], seed=4).to(dtype).requires_grad_() if whole else None
    grad = normal(*size, seed=5).to(dtype)
    inputs = [x] if shift is None else [x, shift]

    def ours() -> list[Tensor]:
        out = group_norm(layer, x, shift, silu=whole)
        return [out, *torch.autograd.grad(out, inputs, grad)]

    exact = [each.detach().double().requires_grad_() for each in inputs]
    out = exact_norm(layer, exact[0], exact[1] if whole else None, whole)
    wanted = [out, *torch.autograd.grad(out, exact, grad.double())]
    first, second = ours(), ours()
    assert first[0].is_contiguous(memory_format=LAST)
    for one, again in zip(first, second, strict=True):
        assert torch.equal(one, again)
    near(first[0], wanted[0])
    near(first[1], wanted[1])
    if whole:  # a sum over the picture: to its own scale, as is what torch sums up
        error = (first[2].double() - wanted[2]).abs().max() / wanted[1].abs().sum((2, 3)).mean()
        assert error < TOLERANCE[dtype]


def test_a_mean_that_is_large_against_the_deviation_costs_no_digits() -> None:
    for size in ((1, 320, 64, 64), (1, 64, 16, 16)):
        layer = norm(32, size[1], torch.float32)
        x = normal(*size) + 1e4
        wanted = exact_norm(layer, x.double(), None, silu=False)
        ours = group_norm(layer, x)
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=4e-3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_gate_and_the_sum(dtype: torch.dtype) -> None:
    x = (2 * normal(2, 1031, 2 * 1280)).to(dtype).requires_grad_()
    grad = normal(2, 1031, 1280, seed=1).to(dtype)
    out = geglu(x)
    exact = x.detach().double().requires_grad_()
    value, gate = exact.chunk(2, dim=-1)
    wanted = value * functional.gelu(gate)
    near(out, wanted)
    near(
        *(
            torch.autograd.grad(*each)[0]
            for each in ((out, x, grad), (wanted, exact, grad.double()))
        )
    )
    one, other = normal(2, 320, 33, 31).to(dtype), normal(2, 320, 33, 31, seed=1).to(dtype)
    bias = normal(320).to(dtype)
    near(add_with_bias(one, other, bias), one.double() + other + bias[:, None, None])


def test_more_numbers_than_an_int32_counts() -> None:
    if torch.cuda.mem_get_info()[0] < 24 * GIB:
        pytest.skip("needs 24 GiB of free memory")
    size = (28, 320, 512, 512)
    assert 28 * 320 * 512 * 512 > 1 << 31
    layer = norm(32, 320, torch.float16)
    x = torch.empty(size, dtype=torch.float16, device="cuda", memory_format=LAST).zero_()
    x[-1].copy_(normal(*size[1:]))
    out = add_with_bias(x, group_norm(layer, x, silu=True), layer.bias)
    last = x[-1:].double()
    near(out[-1:], last + exact_norm(layer, last, None, True) + layer.bias[:, None, None])


def make_unet(dtype: torch.dtype, fused: bool, targets: str) -> Any:
    torch.manual_seed(0)
    unet = base.unet().requires_grad_(requires_grad=False).to(dtype)
    adapters.inject(unet, AdapterConfig(rank=4, alpha=4, targets=targets))
    for name, parameter in unet.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.02)
    if fused:
        fuse(unet, torch.device("cuda"))
    return unet.cuda().train()


def losses(unet: Any, dtype: torch.dtype) -> tuple[list[float], list[Tensor]]:
    """Return the losses of five steps, and the first step's gradients."""
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    noisy, text = normal(3, 4, 16, 20).to(dtype), normal(3, 77, 128, seed=1).to(dtype)
    wanted, timesteps = normal(3, 4, 16, 20, seed=2), torch.tensor([5, 400, 900], device="cuda")
    found, gradients = [], []
    for _ in range(5):
        optimizer.zero_grad()
        out = unet(noisy, timesteps, text, return_dict=False)[0]
        loss = (out.float() - wanted).square().mean()
        loss.backward()
        gradients = gradients or [p.grad.clone() for p in trained]
        optimizer.step()
        found.append(loss.item())
    return found, gradients


@pytest.mark.parametrize("targets", ["attention", "attention+feedforward+convolutions"])
def test_a_unet_in_half_precision_learns_as_the_plain_one(targets: str) -> None:
    plain, plain_gradients = losses(make_unet(torch.float16, False, targets), torch.float16)
    ours, gradients = losses(make_unet(torch.float16, True, targets), torch.float16)
    assert ours == pytest.approx(plain, rel=1e-2)
    error = torch.stack([(a - b).norm() for a, b in zip(gradients, plain_gradients, strict=True)])
    scale = torch.stack([each.norm() for each in plain_gradients])
    assert error.norm() < 3e-2 * scale.norm()


def test_a_unet_gives_the_same_bits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        runs = [
            losses(make_unet(torch.float16, True, "attention"), torch.float16) for _ in range(2)
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    assert runs[0][0] == runs[1][0]
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        assert torch.equal(one, other)
