"""The stepper on a CUDA device by itself, with and without graphs; run with `pytest -m gpu`."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elf.stepping import Stepper

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def network(width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 4)).cuda()


def batch(number: int, rows: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(number)
    inputs, wanted = (torch.randn(rows, n, generator=draw).cuda() for n in (8, 4))
    return {"inputs": inputs, "wanted": wanted}


class Side:
    """A network in training."""

    def __init__(self, model: nn.Module, graphs: bool, half: bool, accumulation: int = 1) -> None:
        def errors(given: Any) -> tuple[Tensor, Tensor]:
            with torch.autocast("cuda", torch.float16, enabled=half, cache_enabled=False):
                output = model(given["inputs"])
            each = (output.float() - given["wanted"]).square().mean(dim=1)
            return each, each

        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        self.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24) if half else None
        self.stepper = Stepper(
            errors,
            list(model.parameters()),
            self.optimizer,
            accumulation=accumulation,
            limit=0.1,
            scaler=self.scaler,
            graphs=graphs,
        )

    def train(self, number: int) -> list[float]:
        losses = []
        for step in range(number):
            self.optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)  # as schedules do
            losses.append(float(self.stepper(batch(step, 3 + step % 2)).loss))
            if step % 2:
                losses.append(float(self.stepper.step()))
        return losses


@pytest.mark.parametrize("half", [False, True])
def test_graphs_change_nothing(half: bool) -> None:
    """Shapes and rates change from step to step; fp16's first scale is one that overflows."""
    eager = Side(network(), graphs=False, half=half, accumulation=2)
    graphs = Side(network(), graphs=True, half=half, accumulation=2)
    assert graphs.train(20) == pytest.approx(eager.train(20), rel=1e-5, nan_ok=True)
    assert (graphs.stepper.passes.captures, graphs.stepper.passes.replays) == (2, 20)
    assert (graphs.stepper.passes.eager, graphs.stepper.update.replays) == (0, 10)
    pairs = zip(eager.model.parameters(), graphs.model.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    if graphs.scaler is not None and eager.scaler is not None:
        assert graphs.scaler.state_dict() == eager.scaler.state_dict()
        assert graphs.scaler.get_scale() < 2.0**24
    ours, theirs = (side.optimizer.state_dict() for side in (graphs, eager))
    assert ours["param_groups"] == theirs["param_groups"]
    assert [v["step"] for v in ours["state"].values()] == [
        v["step"] for v in theirs["state"].values()
    ]


def test_a_schedule_of_more_than_the_rate_is_followed_with_a_reason() -> None:
    """OneCycleLR moves the momentum, too, which a captured step has for good."""
    found = []
    for graphs in (False, True):
        side = Side(network(), graphs=graphs, half=False, accumulation=2)
        side.train(4)
        side.optimizer.param_groups[0]["betas"] = (0.5, 0.999)
        if graphs:
            with pytest.warns(UserWarning, match="from here on: a schedule changes more of its"):
                found.append(side.train(4))
        else:
            found.append(side.train(4))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_memory_can_be_given_up_and_steps_go_on() -> None:
    side = Side(network(1 << 16), graphs=True, half=False)
    plain = Side(copy.deepcopy(side.model), graphs=False, half=False)
    large = batch(0, 2048)  # 512 MiB of activations

    def step(which: Side) -> float:
        loss = float(which.stepper(large).loss)
        which.stepper.step()
        return loss

    losses = [step(side)]
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    assert side.stepper.passes.release()
    assert not side.stepper.passes.release()
    torch.cuda.empty_cache()
    assert held - torch.cuda.memory_reserved() > 1 << 29
    losses += [step(side), step(side)]
    assert losses == pytest.approx([step(plain) for _ in range(3)], rel=1e-5)


def test_the_least_recently_used_graph_goes_first() -> None:
    side = Side(network(), graphs=True, half=False)
    passes = side.stepper.passes
    passes._kept = 2
    for rows in (1, 2, 1, 3, 1, 2):
        side.stepper(batch(0, rows))
    assert passes.captures == 4  # 1, 2, 3 in 2's place, 2 in 3's place
