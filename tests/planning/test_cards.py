"""Cards are found by the names that people and drivers give them."""

import re

import pytest

from elf.errors import ElfError
from elf.planning.cards import CARDS, Card, _matching, find_card
from elf.planning.kernels import Kernel
from elf.planning.timing import KERNEL, LAUNCH, MATRIX, STREAM, step_seconds


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("RTX 3060 Ti", "RTX 3060 Ti"),
        ("3060ti", "RTX 3060 Ti"),
        ("NVIDIA GeForce RTX 3060 Ti", "RTX 3060 Ti"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "Tesla T4"),
    ],
)
def test_a_card_is_found(given: str, name: str) -> None:
    assert find_card(given).name == name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_is_found_by_its_own_name(card: Card) -> None:
    assert find_card(card.name) is card


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 3060 Ti Laptop GPU", "NVIDIA H100 PCIe"])
def test_a_slower_relative_is_another_card(name: str) -> None:
    assert _matching(name) is None


@pytest.mark.parametrize(
    ("given", "near"), [("RTX 3061 Ti", "RTX 3060 Ti"), ("A100", "A100 40GB"), ("3090 Ti", "3090")]
)
def test_an_unknown_card_is_refused_with_near_ones(given: str, near: str) -> None:
    with pytest.raises(ElfError, match=f"--gpu: no card '{given}' is known.*{near}") as refusal:
        find_card(given)
    assert "\n" not in str(refusal.value)


def test_a_name_like_no_other_gets_all() -> None:
    with pytest.raises(ElfError, match=re.escape("nearly: Tesla T4, RTX 2080 Ti")):
        find_card("???")


CARD = Card("one", 1, 100, 10, 1000)


def kernel(flops: int = 0, size: int = 0, launches: int = 1, half: bool = True) -> Kernel:
    return Kernel("any", flops, size, launches, half)


def test_a_step_without_work_is_its_launches() -> None:
    idle = step_seconds([], 0, CARD)
    assert step_seconds([kernel(launches=100)], 0, CARD) - idle == pytest.approx(100 * KERNEL)
    two = step_seconds([kernel(launches=100)], 0, CARD, passes=2)
    assert two - idle == pytest.approx(200 * KERNEL)


def test_time_is_arithmetic_or_traffic() -> None:
    idle = step_seconds([kernel()], 0, CARD)
    products = step_seconds([kernel(flops=10**12)], 0, CARD) - idle
    assert products == pytest.approx(1e12 / (100e12 * MATRIX))
    both = step_seconds([kernel(flops=10**12, size=10**6)], 0, CARD) - idle
    assert both == products  # at once
    moved = step_seconds([kernel(size=10**9)], 0, CARD) - idle
    assert moved == pytest.approx(1e9 / (1000e9 * STREAM))
    slow = step_seconds([kernel(flops=10**12, half=False)], 0, CARD) - idle
    assert slow == pytest.approx(10 * products)


def test_without_graphs_the_processor_limits() -> None:
    many = [kernel()] * 1000
    captured, eager = step_seconds(many, 0, CARD), step_seconds(many, 0, CARD, captured=False)
    assert eager - captured == pytest.approx(1000 * (LAUNCH - KERNEL))
