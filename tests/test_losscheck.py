"""A loss that is not finite is told with its step and pictures, whenever it is looked at."""

import pytest
import torch

from elf.errors import ElfError
from elf.losscheck import LossCheck


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_is_told(value: str) -> None:
    losses = LossCheck()
    losses.add(torch.tensor(1.0), 3, ["a"])
    losses.add(torch.tensor(float(value)), 4, ["b", "c"])
    losses.check(all_but=1)
    with pytest.raises(ElfError, match=rf"the loss is {value} at step 4 \(pictures b, c\); the"):
        losses.check()
    losses.check()
