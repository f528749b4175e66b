"""Gradients come in the layout that the operator after it gives them, seldom in a kernel's own."""

import pytest
import torch
from torch import Tensor

from elf.adapters import dora

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU", allow_module_level=True)


def layouts(pictures: int) -> dict[str, Tensor]:
    """Return gradients (pictures, 12, 16) of tokens."""
    draw = torch.Generator().manual_seed(0)
    picture = torch.randn(pictures, 16, 3, 4, generator=draw)
    return {
        "rows": torch.randn(pictures, 12, 16, generator=draw),
        "a picture's, channels first": picture.permute(0, 2, 3, 1).flatten(1, 2),
        "half of wider rows": torch.randn(pictures, 12, 32, generator=draw)[..., 16:],
        "a sum's": torch.ones(()).expand(pictures, 12, 16),
    }


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("layout", layouts(1))
def test_doras_gains_have_the_gradients_of_their_formula(
    layout: str, pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(1)
    grad, output = layouts(pictures)[layout], torch.randn(pictures, 12, 16, generator=draw)
    lost, norm = 0.1 * torch.rand(16, generator=draw), 1 + torch.rand(16, generator=draw)
    for bias in (None, torch.randn(16, generator=draw)):
        wanted = dora.less_backward([grad], output, lost, norm, bias)
        with monkeypatch.context() as patch:
            patch.setattr(dora, "has_kernels", lambda tensor: True)
            ours = dora.less_backward([grad], output, lost, norm, bias)
        for one, other in zip(ours, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
