"""Codes stand for the values nearest to the weights, whatever the shape, type and size of these."""

import pytest
import torch

from elf.quantized.codes import BLOCK, Kind, decode, encode, fits

# The NormalFloat values of QLoRA (Dettmers et al. 2023, appendix E).
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
TYPES = [torch.float32, torch.float16, torch.bfloat16]


def coded(weight: torch.Tensor, kind: Kind, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rows, columns = weight.shape
    return decode(*encode(weight, kind), kind, (rows, columns), dtype)


# In rows that are no whole blocks, too: the CPU kernels of bitsandbytes 0.50 get them wrong.
@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (12, 16), (3, 64), (128, 320)])
@pytest.mark.parametrize("dtype", TYPES)
def test_nf4_takes_the_nearest_of_its_values(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    blocks = weight.float().view(-1, BLOCK)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    nearest = NF4[(blocks / largest)[..., None].sub(NF4).abs().argmin(dim=-1)] * largest
    torch.testing.assert_close(coded(weight, "nf4"), nearest.view(shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-4])  # float16 could not hold the scales of the second
@pytest.mark.parametrize("dtype", TYPES)
def test_int8_is_within_half_a_step(dtype: torch.dtype, scale: float) -> None:
    weight = (torch.randn(48, 100, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)
    step = weight.float().abs().amax(dim=1, keepdim=True) / 127
    assert ((coded(weight, "int8") - weight.float()).abs() <= 0.501 * step).all()


@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.1), ("int8", 0.011)])
@pytest.mark.parametrize("dtype", TYPES)
def test_normal_weights_are_kept_this_well(kind: Kind, error: float, dtype: torch.dtype) -> None:
    weight = (0.02 * torch.randn(64, 256, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = coded(weight, kind, dtype)
    assert found.dtype == dtype
    assert 0.5 * error < (found - weight).float().norm() / weight.float().norm() < error


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_rows_of_zeros_stay_zero(kind: Kind) -> None:
    weight = torch.randn(4, 64)
    weight[1] = 0
    assert not coded(weight, kind)[1].any()


def test_what_is_no_whole_block_does_not_fit_nf4() -> None:
    assert fits(torch.zeros(3, 64), "nf4")
    assert not fits(torch.zeros(3, 5), "nf4")
    assert fits(torch.zeros(3, 5), "int8")
