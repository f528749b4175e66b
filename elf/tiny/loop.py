"""What the training recipes share: schedule, averaging and a line of progress."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn


@dataclass
class Budget:
    """How much one training run may do.

    Args:
        steps: optimizer steps.
        batch: pictures a step.
        rate: peak learning rate.
        device: "cuda" or "cpu".
        seed: of weights, order and noise.
        warmup: steps over which the learning rate rises.
        seconds: an upper bound on the time; the schedule ends with it.
        graphs: on a GPU, run each step as a CUDA graph.
    """

    steps: int
    batch: int
    rate: float
    device: str = "cpu"
    seed: int = 0
    warmup: int = 100
    seconds: float = math.inf
    graphs: bool = True

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 on a GPU, float32 on a CPU."""
        on = self.device == "cuda"
        # A captured graph must not keep casts of weights from one replay to the next.
        return torch.autocast("cuda", torch.bfloat16, enabled=on, cache_enabled=False)


class Average:
    """Exponential moving average of a model's weights and buffers, with a warm start."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        self.mine, self.theirs = [mine[n] for n in floats], [theirs[n] for n in floats]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the model's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.mine, self.theirs, 1 - decay)


Loss = Callable[[], Tensor]


def train(
    name: str,
    models: list[nn.Module],
    budget: Budget,
    losses: Sequence[Loss],
    averages: Sequence[Average],
    shares: list[float] | None = None,
    weight_decay: float = 0.01,
    halfway: Callable[[], None] | None = None,
) -> None:
    """Run AdamW over a loss with warm-up and cosine decay, and print how it goes.

    Such small models leave a GPU waiting for Python: there, each loss becomes one CUDA graph
    of the whole step.

    Args:
        name: what the lines of progress begin with.
        models: whose weights are trained.
        budget: steps, learning rate and time.
        losses: each draws its own batch, on the device, and gives its loss; every step picks
            one of them.
        averages: of the models, to be kept up to date.
        shares: how often each loss is picked, relative to the others.
        weight_decay: of AdamW.
        halfway: called once, when half of the run is over.
    """
    started = time.monotonic()
    weights = [p for model in models for p in model.parameters() if p.requires_grad]
    cuda = budget.device == "cuda"
    rate = torch.tensor(0.0, device=budget.device)
    optimizer = torch.optim.AdamW(
        weights,
        lr=rate if cuda else 0.0,
        betas=(0.9, 0.99),
        weight_decay=weight_decay,
        fused=cuda,
        capturable=cuda,
    )

    if cuda:
        optimizer.param_groups[0]["lr"] = rate

    def step(loss: Loss) -> Tensor:
        with budget.autocast():
            value = loss()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        optimizer.step()
        return value.detach()

    steps: list[Loss] = [partial(step, loss) for loss in losses]
    if cuda and budget.graphs:
        steps = [_captured(one) for one in steps]
    picked = torch.tensor(shares or [1.0] * len(losses))
    print(f"{name}: ready after {time.monotonic() - started:.0f} s", flush=True)
    window: list[Tensor] = []
    for number, progress in _progress(budget, started):
        height = budget.rate * min(1.0, (number + 1) / budget.warmup)
        height *= 0.5 * (1 + math.cos(math.pi * progress)) * 0.99 + 0.01
        rate.fill_(height)
        if not cuda:
            optimizer.param_groups[0]["lr"] = height
        value = steps[int(torch.multinomial(picked, 1))]()
        for average in averages:
            average.update()
        if halfway is not None and progress >= 0.5:
            halfway()
            halfway = None
        window.append(value.clone())
        if len(window) == max(1, budget.steps // 40):
            mean = float(torch.stack(window).mean())
            window.clear()
            seconds = time.monotonic() - started
            print(f"{name}: step {number + 1}, {seconds:.0f} s, loss {mean:.4f}", flush=True)


def _captured(step: Loss) -> Loss:
    """The same step as one CUDA graph, recorded after two plain steps on a side stream."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()

    def replay() -> Tensor:
        graph.replay()
        return value

    return replay


def _progress(budget: Budget, started: float) -> Iterator[tuple[int, float]]:
    for step in range(budget.steps):
        spent = (time.monotonic() - started) / budget.seconds
        if spent >= 1:
            return
        yield step, max(spent, step / budget.steps)
