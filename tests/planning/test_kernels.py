"""The work of operators, against what one counts by hand and what torch counts."""

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from elf.planning.kernels import Kernel
from elf.planning.tracing import watch


def kernels(function: object, *tensors: torch.Tensor) -> list[Kernel]:
    assert callable(function)
    return watch(lambda: function(*tensors), lambda _: None).kernels


def test_a_product() -> None:
    (kernel,) = kernels(torch.mm, torch.ones(3, 4), torch.ones(4, 5))
    assert kernel == Kernel("mm", 2 * 3 * 4 * 5, 4 * (12 + 20 + 15), 1, False)


def test_elementwise_work_is_traffic_alone() -> None:
    (kernel,) = kernels(torch.add, torch.ones(8).half(), torch.ones(8).half())
    assert kernel == Kernel("add", 0, 3 * 16, 1, True)


def test_a_view_is_no_kernel() -> None:
    assert kernels(lambda x: x.view(4, 2).T, torch.ones(8)) == []


def test_convolutions_in_16_bit_are_turned_over() -> None:
    x, weight = torch.ones(1, 4, 6, 6), torch.ones(8, 4, 3, 3)
    (single,) = kernels(lambda a, b: functional.conv2d(a, b, padding=1), x, weight)
    (half,) = kernels(
        lambda a, b: functional.conv2d(a, b, padding=1), x.bfloat16(), weight.bfloat16()
    )
    assert single.flops == half.flops == 2 * 8 * 36 * 4 * 9
    assert single.bytes == 4 * (144 + 288 + 288)
    assert half.bytes == 3 * single.bytes // 2
    assert (single.launches, half.launches) == (1, 4)


def test_products_are_counted_as_torch_counts_them() -> None:
    a, b = torch.randn(4, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    picture = torch.randn(2, 4, 8, 8, requires_grad=True)
    weight = torch.randn(8, 4, 3, 3, requires_grad=True)

    def forward() -> torch.Tensor:
        product = torch.addmm(a, a @ b, b)
        return functional.conv2d(picture, weight, padding=1).mean() + product.mean()

    seen = watch(forward, lambda loss: torch.autograd.grad(loss, [a, b, picture, weight]))
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(forward(), [a, b, picture, weight])
    assert sum(kernel.flops for kernel in seen.kernels) == counter.get_total_flops()


def test_attention_is_two_products_forwards_and_five_backwards() -> None:
    query = torch.randn(2, 4, 16, 8, requires_grad=True)
    key = torch.randn(2, 4, 32, 8, requires_grad=True)
    seen = watch(
        lambda: functional.scaled_dot_product_attention(query, key, key),
        lambda out: torch.autograd.grad(out.sum(), [query, key]),
    )
    one = 2 * 2 * 4 * 16 * 32 * 8
    assert [k.flops for k in seen.kernels if k.flops] == [2 * one, 5 * one]
