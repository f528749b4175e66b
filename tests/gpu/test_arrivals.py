"""Nobody waits for what is on its way from a GPU; run with `pytest -m gpu`."""

import pytest
import torch

from elf.training.arrivals import Arrivals

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_values_arrive_when_the_gpu_has_come_to_them() -> None:
    arrivals: Arrivals[int] = Arrivals(most=2)
    # the first round loads kernels and pins memory, which waits for the GPU
    for first_round in (True, False):
        values = torch.zeros(3, device="cuda")
        torch.cuda.synchronize()
        for number in range(2):
            torch.cuda._sleep(int(2e8))  # some 0.1 s
            values += 1
            arrivals.send(values, number)
        values += 1
        found = [(number, each.tolist()) for each, number in arrivals.take()]
        assert found == [] or first_round, "the GPU is at work"
        arrivals.send(values, 2)
        found += [(number, each.tolist()) for each, number in arrivals.take()]
        assert found[0] == (0, [1.0] * 3), "three are more than may wait"
        found += [(number, each.tolist()) for each, number in arrivals.take(wait=True)]
        assert found == [(0, [1.0] * 3), (1, [2.0] * 3), (2, [3.0] * 3)]
