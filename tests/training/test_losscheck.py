"""A loss that is not finite is told with its step and pictures, whenever it is looked at."""

import pytest
import torch

from elf.errors import ElfError
from elf.training.losscheck import LossCheck


def added(*losses: tuple[str, str]) -> LossCheck:
    checked = LossCheck(lambda: "a.ckpt is from before")
    for step, (own, shared) in enumerate(losses, 3):
        checked.add(torch.tensor(float(own)), torch.tensor(float(shared)), step, ["a", "b"])
    return checked


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_is_told(value: str) -> None:
    losses = added(("1", "1"), (value, value))
    with pytest.raises(
        ElfError,
        match=rf"the loss is {value} at step 4 \(pictures a, b\); a.ckpt is from before. Lower the",
    ):
        losses.check()
    losses.check()


def test_that_of_another_process_is_told_too() -> None:
    with pytest.raises(ElfError, match=r"nan at step 3 \(the pictures that another process names"):
        added(("1", "nan")).check()
