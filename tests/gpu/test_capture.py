"""Captures on a CUDA device, above all those that fail; run with `pytest -m gpu`."""

import pytest
import torch

from elf.capture import Recorder

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
