"""The stepper makes of batches what a plain loop over autograd and an optimizer makes."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elf.stepping import Gradients, Stepper
from elf.stepping.static import StaticBatch, form_of
from elf.stepping.update import fixed_options, why_not
from elf.training.optimization import clip_gradients


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def batches(number: int) -> Iterator[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(number):
        yield {
            "inputs": torch.randn(4, 6, generator=draw),
            "more": {"wanted": torch.randn(4, 3, generator=draw)},
            "id": ["a", "b", "c", "d"],
        }


def errors_of(model: nn.Module) -> Any:
    def errors(batch: Any) -> tuple[Tensor, Tensor]:
        each = (model(batch["inputs"]) - batch["more"]["wanted"]).square().mean(dim=1)
        return each, 2 * each

    return errors


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("limit", [None, 0.05])
def test_it_is_the_plain_loop(accumulation: int, limit: float | None) -> None:
    plain = network()
    ours = copy.deepcopy(plain)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    stepper = Stepper(
        errors_of(ours),
        list(ours.parameters()),
        torch.optim.AdamW(ours.parameters(), lr=1e-2),
        accumulation=accumulation,
        limit=limit,
    )
    for number, batch in enumerate(batches(12), 1):
        errors, weighted = errors_of(plain)(batch)
        (weighted.mean() / accumulation).backward()
        step = stepper(batch)
        assert torch.equal(step.errors, errors)
        assert torch.equal(step.loss, weighted.mean())
        if number % accumulation == 0:
            norm = clip_gradients(plain.parameters(), limit)
            assert limit is None or norm > limit
            theirs.step()
            theirs.zero_grad()
            assert torch.equal(stepper.step(), norm)
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradients_outlive_who_zeroes_them_and_what_is_not_used_has_none() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    gradients = Gradients(list(model.parameters()))
    gradients.add(model["used"](torch.ones(1, 2)).sum())
    model.zero_grad()  # to None, as Lightning does before it validates
    gradients.attach()
    gradients.add(model["used"](torch.ones(1, 2)).sum())
    assert model["used"].weight.grad is not None
    assert model["used"].weight.grad.tolist() == [[2.0, 2.0]]
    assert gradients.buffer.tolist() == [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]


def test_it_tells_when_someone_else_changed_the_parameters() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told: list[None] = []
    parameters = list(model.parameters())
    stepper = Stepper(errors_of(model), parameters, optimizer, changed=lambda: told.append(None))
    one, two = batches(2)
    stepper(one)
    stepper(two)
    assert len(told) == 1  # before the first pass nobody knows
    with torch.no_grad():
        parameters[0].mul_(2)
    stepper(one)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.optim.AdamW(p, fused=True), None),
        (lambda p: torch.optim.AdamW(p), r"AdamW is not fused \(fused: true\)"),
        (lambda p: torch.optim.Adafactor(p), "Adafactor keeps numbers of its own on the CPU"),
    ],
)
def test_only_a_fused_adam_can_be_captured(make: Any, reason: str | None) -> None:
    found = why_not(make(network().parameters()))
    assert (found is None) if reason is None else re.fullmatch(reason, str(found))


def test_only_the_rate_of_a_captured_step_may_change() -> None:
    optimizer = torch.optim.AdamW(network().parameters(), lr=0.1)
    before = fixed_options(optimizer)
    optimizer.param_groups[0]["lr"] = 0.2
    assert fixed_options(optimizer) == before
    optimizer.param_groups[0]["betas"] = (0.8, 0.999)  # as OneCycleLR does
    assert fixed_options(optimizer) != before


def test_batches_of_one_form_share_their_place() -> None:
    one, two = batches(2)
    assert form_of(one) == form_of(two)
    assert form_of({**one, "inputs": torch.zeros(4, 7)}) != form_of(one)
    assert form_of({**one, "inputs": one["inputs"].double()}) != form_of(one)
    static = StaticBatch(one)
    place = static.batch["more"]["wanted"]
    static.take(two)
    assert torch.equal(place, two["more"]["wanted"])
    assert not torch.equal(one["more"]["wanted"], two["more"]["wanted"])  # a copy took it
