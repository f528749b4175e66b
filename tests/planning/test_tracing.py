"""What is seen of a function without numbers is what happens with them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from elf.planning.tracing import BLOCK, Pretence, Seen, watch


class Block(nn.Module):
    """A little of all that a UNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 32, 3, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.projection = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, h·w, 32) of (B, 8, h, w)."""
        x = functional.silu(self.norm(self.convolution(x))).flatten(2).transpose(1, 2)
        parts = self.projection(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        result: Tensor = functional.gelu(self.out(seen)) + x
        return result


Forward = Callable[[nn.Module, Tensor], Tensor]


def plain(network: nn.Module, x: Tensor) -> Tensor:
    return network(x).square().mean()  # type: ignore[no-any-return]


def checkpointed(network: nn.Module, x: Tensor) -> Tensor:
    result: Any = checkpoint(network, x, use_reentrant=False, preserve_rng_state=False)
    return result.square().mean()  # type: ignore[no-any-return]


def seen_of(forward: Forward, batch: int = 2, side: int = 8) -> Seen:
    pretence = Pretence()
    with pretence():
        network = Block()
        x = torch.empty(batch, 8, side, side)
        parameters = list(network.parameters())
        return watch(
            lambda: forward(network, x), lambda loss: torch.autograd.grad(loss, parameters)
        )


def saved_for_backward(batch: int, side: int) -> int:
    """Return the bytes that autograd really keeps, inputs and parameters aside."""
    network, x = Block(), torch.randn(batch, 8, side, side)
    own = {each.untyped_storage().data_ptr() for each in (*network.parameters(), x)}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = -(-storage.nbytes() // BLOCK) * BLOCK
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = plain(network, x)  # noqa: F841  # alive, with its graph
    return sum(saved.values()) + BLOCK  # the loss itself


@pytest.mark.parametrize(("batch", "side"), [(2, 8), (3, 16)])
def test_what_is_kept_is_what_autograd_saves(batch: int, side: int) -> None:
    assert seen_of(plain, batch, side).kept == saved_for_backward(batch, side)


@pytest.mark.parametrize("forward", [plain, checkpointed])
def test_the_peak_is_that_of_real_tensors(forward: Forward) -> None:
    network, x = Block(), torch.randn(2, 8, 8, 8)
    parameters = list(network.parameters())
    real = watch(lambda: forward(network, x), lambda loss: torch.autograd.grad(loss, parameters))
    seen = seen_of(forward)
    assert (seen.kept, seen.peak) == (real.kept, real.peak)
    assert seen.kernels == real.kernels


def test_checkpointing_keeps_less_and_computes_more() -> None:
    all_kept, recomputed = seen_of(plain), seen_of(checkpointed)
    assert recomputed.kept < all_kept.kept / 4
    assert recomputed.peak >= all_kept.kept  # one block is all there is
    more = sum(k.flops for k in recomputed.kernels) / sum(k.flops for k in all_kept.kernels)
    assert 1.2 < more < 1.4


def test_no_memory_is_used() -> None:
    with Pretence()():
        huge = torch.empty(1 << 40)
        assert (huge + huge).shape == (1 << 40,)


def test_networks_have_the_type_that_is_asked_for() -> None:
    with Pretence()(torch.float16):
        assert nn.Linear(2, 2).weight.dtype == torch.float16
    assert nn.Linear(2, 2).weight.dtype == torch.float32


def test_views_and_what_is_gone_do_not_count() -> None:
    with Pretence()():
        x = torch.empty(1024)

        def passing() -> Tensor:
            for _ in range(5):
                y = x * 2  # 4 KiB, of which each replaces the last
            return y.view(32, 32)[1:].T

        seen = watch(passing, lambda y: None)
    assert seen.kept == 4096
    assert seen.peak == 2 * 4096  # the new one is made before the old one goes
    assert len(seen.kernels) == 5


def test_a_copy_of_a_network_is_as_large() -> None:
    pretence = Pretence()
    with pretence():
        network = copy.deepcopy(Block())
    assert sum(each.numel() for each in network.parameters()) == sum(
        each.numel() for each in Block().parameters()
    )
