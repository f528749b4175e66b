"""DoRA's Triton kernels on a CPU, by the interpreter, beside the formulas that they stand for."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from elf.adapters import dora

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU", allow_module_level=True)

from elf.adapters import dora_kernels

SCALE = 0.7
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rank", [6, 20])
def test_norms_of_layers_of_several_shapes_at_once(dtype: torch.dtype, rank: int) -> None:
    draw = torch.Generator().manual_seed(0)
    layers: list[Sequence[Tensor]] = []
    for outputs, inputs in ((70, 48), (32, 100), (128, 64)):
        weight = torch.randn(outputs, inputs, generator=draw).to(dtype)
        a = torch.randn(rank, inputs, generator=draw)
        b = 0.3 * torch.randn(outputs, rank, generator=draw)
        weight[3], b[3] = 0, 0  # a row without a length
        magnitude = 1 + torch.rand(outputs, generator=draw)
        base = dora.norm_squared(weight, "output")
        norm, lost = torch.empty(outputs), torch.empty(outputs, dtype=dtype)
        layers.append((weight, a, b, base, magnitude, norm, lost))
    dora_kernels.NormTable(layers, SCALE).refresh()
    for weight, a, b, base, magnitude, norm, lost in layers:
        shared = dora.overlap(weight, a, b, "output")
        (wanted,) = dora.norms(base[None], shared[None], a[None], b[None], SCALE, "output")
        assert norm[3] == wanted[3] == 1
        torch.testing.assert_close(norm, wanted, rtol=2e-5, atol=1e-5)
        limit = TOLERANCE[dtype]
        torch.testing.assert_close(lost, (1 - magnitude / wanted).to(dtype), rtol=limit, atol=limit)


def test_a_change_in_place_is_seen_without_a_new_table() -> None:
    draw = torch.Generator().manual_seed(1)
    weight, a = torch.randn(16, 32, generator=draw), torch.randn(4, 32, generator=draw)
    b, norm, lost = torch.zeros(16, 4), torch.empty(16), torch.empty(16)
    base = dora.norm_squared(weight, "output")
    table = dora_kernels.NormTable([(weight, a, b, base, torch.ones(16), norm, lost)], 1.0)
    table.refresh()
    torch.testing.assert_close(norm, base.sqrt())
    b.fill_(0.5)
    table.refresh()
    wanted = dora.norm_squared(dora.updated(weight, a, b, 1.0), "output").sqrt()
    torch.testing.assert_close(norm, wanted)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("biased", [False, True])
def test_the_gain_and_its_gradients(dtype: torch.dtype, biased: bool) -> None:
    draw = torch.Generator().manual_seed(2)
    rows, width, limit = 150, 96, TOLERANCE[dtype]
    x, grad = (torch.randn(rows, width, generator=draw).to(dtype) for _ in range(2))
    lost = (0.1 * torch.randn(width, generator=draw)).to(dtype)
    norm = 0.5 + torch.rand(width, generator=draw)
    bias = torch.randn(width, generator=draw).to(dtype) if biased else None
    ours, wanted = dora_kernels.scale(x, lost, bias), dora.less(x, lost, bias)
    torch.testing.assert_close(ours, wanted, rtol=limit, atol=limit)
    of_x, of_magnitude = dora.less_backward([grad], x, lost, norm, bias)
    whole, apart = grad.chunk(3, dim=1), [part.contiguous() for part in grad.chunk(3, dim=1)]
    for parts in ([grad], whole, apart):
        ours, sums = dora_kernels.scale_backward(parts, x, lost, norm, bias)
        torch.testing.assert_close(ours, of_x, rtol=limit, atol=limit)
        # 150 products, which the formula rounds one by one
        torch.testing.assert_close(sums, of_magnitude, rtol=20 * limit, atol=40 * limit)


def test_a_gain_of_one_changes_nothing() -> None:
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(3)).half()
    assert torch.equal(dora_kernels.scale(x, torch.zeros(32).half(), torch.ones(32).half()), x)
