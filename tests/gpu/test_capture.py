"""Captures on a CUDA device, above all those that fail; run with `pytest -m gpu`."""

import pytest
import torch

from elf.stepping.capture import Recorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_after_a_capture_that_fails_all_goes_on() -> None:
    total = torch.zeros(1, device="cuda")
    record = Recorder(torch.device("cuda", torch.cuda.current_device()))
    stream = torch.cuda.current_stream()
    good = record(lambda: total.add_(1))

    def wait() -> None:
        if torch.cuda.is_current_stream_capturing():
            total.item()

    for _ in range(2):
        with pytest.raises(RuntimeError, match="captur"):
            record(wait)
        assert torch.cuda.current_stream() == stream
        assert torch.rand(2, device="cuda").isfinite().all()
        assert torch.ones(3, pin_memory=True).cuda().sum().item() == 3
    better = record(lambda: total.add_(10))
    total.zero_()
    good()
    better()
    assert total.item() == 11


def test_a_graph_outlives_the_workspaces_of_torch() -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    left, right = (
        torch.randn(shape, device="cuda", generator=draw) for shape in ((64, 65536), (65536, 64))
    )
    out = torch.empty(64, 64, device="cuda")
    record = Recorder(torch.device("cuda", torch.cuda.current_device()))
    replay = record(lambda: torch.mm(left, right, out=out))
    replay()
    expected = out.clone()
    torch._C._cuda_clearCublasWorkspaces()  # as Lightning's Trainer does
    torch.cuda.empty_cache()
    others = [torch.full((1 << 18,), 7.0, device="cuda") for _ in range(64)]
    out.zero_()
    replay()
    assert torch.equal(out, expected)
    assert all((other == 7).all() for other in others)


def test_what_a_first_run_leaves_behind_no_earlier_graph_writes_to() -> None:
    """As an optimizer's state is made: by a run before its capture, after another's capture."""
    record = Recorder(torch.device("cuda", torch.cuda.current_device()))
    source = torch.ones(1 << 20, device="cuda")
    out = torch.empty((), device="cuda")

    def scratch() -> None:
        out.copy_((source * 3).add(1).sum())

    first = record(scratch)
    state: list[torch.Tensor] = []

    def keep() -> None:
        if not state:
            state.append(torch.zeros(1 << 20, device="cuda"))
        state[0].add_(1)

    second = record(keep)
    state[0].zero_()
    for _ in range(3):
        first()
        second()
    assert (state[0] == 3).all()
    assert out.item() == 4 * (1 << 20)


def test_runs_before_a_capture_may_use_the_memory_of_its_graphs() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    source = torch.ones(1 << 26, device="cuda")  # 256 MiB
    record = Recorder(device)
    out = torch.empty((), device="cuda")

    def run() -> None:
        out.copy_((source * 2).sqrt().sum())

    first = record(run)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    second = record(run, warm_up_in_pool=True)
    assert torch.cuda.max_memory_reserved() - before < 1 << 27
    for replay in (first, second):
        out.zero_()
        replay()
        assert out.item() == pytest.approx(2**0.5 * (1 << 26), rel=1e-4)
