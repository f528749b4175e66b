"""Triton's kernels on a CPU, by its interpreter, beside the PyTorch that they stand for."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU", allow_module_level=True)

from elf.fused import norm_kernels, pointwise_kernels

# of the sigmoid of what is large and negative, or outside the picture and not stored
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
LAST = torch.channels_last
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float16"])
SHAPES = {  # pictures, channels, rows, columns, groups
    "even": (2, 16, 4, 4, 4),
    "odd": (2, 9, 5, 7, 3),
    "one number a group": (2, 4, 1, 1, 4),
    "one group": (1, 6, 3, 2, 1),
    "more than a tile": (1, 70, 9, 13, 2),
}


def near(ours: Tensor, wanted: Tensor) -> None:
    limit = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours.double(), wanted, rtol=limit, atol=limit)


class Case:
    """A norm's inputs; its output and its gradient by PyTorch, in float64."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, silu: bool, shifted: bool, mean: float = 3
    ) -> None:
        draw = torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=draw)

        *size, self.groups = shape
        pictures, channels = size[:2]
        self.x = (normal(*size) + mean).to(dtype).contiguous(memory_format=LAST)
        self.grad = normal(*size).to(dtype).contiguous(memory_format=LAST)
        self.weight, self.bias = normal(channels).to(dtype), normal(channels).to(dtype)
        self.shift = normal(pictures, channels).to(dtype) if shifted else None
        self.silu = silu
        x = self.x.double().requires_grad_()
        value = x if self.shift is None else x + self.shift.double()[..., None, None]
        out = functional.group_norm(
            value, self.groups, self.weight.double(), self.bias.double(), 1e-5
        )
        out = functional.silu(out) if silu else out
        (self.wanted_grad,) = torch.autograd.grad(out, x, self.grad.double())
        self.wanted = out.detach()

    def computed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the kernels' output, statistics and gradient."""
        out, stats = norm_kernels.normalize(
            self.x, self.shift, self.weight, self.bias, self.groups, 1e-5, self.silu
        )
        grad = norm_kernels.normalize_backward(
            self.grad, self.x, self.shift, self.weight, self.bias, stats, self.silu
        )
        return out, stats, grad


@DTYPES
@pytest.mark.parametrize("shared", [False, True], ids=["a program a group", "shared"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_norm_and_its_gradient(
    shape: tuple[int, ...], shared: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shared:
        monkeypatch.setattr(norm_kernels, "SMALL", 0)
    alone = [(True, False), (False, True)] if shape == SHAPES["odd"] else []
    for silu, shifted in [(True, True), (False, False), *alone]:
        case = Case(shape, dtype, silu, shifted)
        out, stats, grad = case.computed()
        near(out, case.wanted)
        near(grad, case.wanted_grad)
        assert stats.dtype == torch.float32
        for ours in (out, grad):
            assert ours.dtype == dtype
            assert ours.is_contiguous(memory_format=LAST)


def test_chunks_of_rows_cover_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,100 rows are more than 64 tiles of 32: a program adds up two, the last not both."""
    monkeypatch.setattr(norm_kernels, "SMALL", 0)
    case = Case((1, 4, 42, 50, 2), torch.float32, silu=True, shifted=True)
    out, _, grad = case.computed()
    near(out, case.wanted)
    near(grad, case.wanted_grad)


@pytest.mark.parametrize("shared", [False, True], ids=["a program a group", "shared"])
def test_a_mean_that_is_large_against_the_deviation_costs_no_digits(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of squares of values themselves, 10⁸ ± 10⁴, float32 would keep nothing of the variance."""
    if shared:
        monkeypatch.setattr(norm_kernels, "SMALL", 0)
    case = Case((2, 8, 6, 6, 2), torch.float32, silu=False, shifted=True, mean=1e4)
    out, stats, grad = case.computed()
    # of a value near 10⁴ float32 has 10⁻³ at best: x + shift is rounded to that
    torch.testing.assert_close(out.double(), case.wanted, rtol=0, atol=2e-3)
    torch.testing.assert_close(grad.double(), case.wanted_grad, rtol=0, atol=2e-3)
    exact = (case.x.double() + case.shift.double()[..., None, None]).reshape(2, 2, -1)
    torch.testing.assert_close(stats[..., 0].double(), exact.mean(2), rtol=1e-6, atol=0)
    deviation = (exact.var(2, correction=0) + 1e-5).rsqrt()
    torch.testing.assert_close(stats[..., 1].double(), deviation, rtol=2e-4, atol=0)


def test_no_pictures_are_no_work() -> None:
    x = torch.empty(0, 8, 4, 4).contiguous(memory_format=LAST)
    weight = torch.ones(8)
    out, stats = norm_kernels.normalize(x, None, weight, weight, 2, 1e-5, silu=True)
    assert out.shape == x.shape
    assert stats.shape == (0, 2, 2)


@DTYPES
def test_the_gate_and_its_gradient(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(3, 7, 2 * 109, generator=draw)).to(dtype)  # more than two programs' work
    grad = torch.randn(3, 7, 109, generator=draw).to(dtype)
    exact = x.double().requires_grad_()
    value, gate = exact.chunk(2, dim=-1)
    wanted = value * functional.gelu(gate)
    (wanted_grad,) = torch.autograd.grad(wanted, exact, grad.double())
    near(pointwise_kernels.gate(x), wanted.detach())
    near(pointwise_kernels.gate_backward(grad, x), wanted_grad)


@DTYPES
@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 7, 1, 1), (3, 1, 4, 5), (2, 40, 6, 5)])
def test_the_sum_with_a_bias(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (
        torch.randn(shape, generator=draw).to(dtype).contiguous(memory_format=LAST)
        for _ in range(2)
    )
    bias = torch.randn(shape[1], generator=draw).to(dtype)
    ours = pointwise_kernels.add_with_bias(one, other, bias)
    near(ours, one.double() + other.double() + bias.double()[:, None, None])
    assert ours.is_contiguous(memory_format=LAST)
