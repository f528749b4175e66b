"""What is on its way arrives as it was sent; tests/gpu/test_arrivals.py has it on a GPU."""

import torch

from elf.training.arrivals import Arrivals


def test_values_arrive_once_and_as_they_were_sent() -> None:
    arrivals: Arrivals[str] = Arrivals(most=1)
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    for about in ("first", "second"):
        arrivals.send(values, about)
        values.data += 1
    found = [(about, each.tolist(), each.requires_grad) for each, about in arrivals.take()]
    assert found == [("first", [1, 2], False), ("second", [2, 3], False)]
    assert list(arrivals.take(wait=True)) == []
