"""Weights as codes of 4 or 8 bit and their scales, and back: pure functions.

``nf4`` is the NormalFloat of QLoRA (Dettmers et al. 2023): blocks of 64 weights, a scale each, and
16 values that normal weights use equally often; bitsandbytes has its kernels. The scales are not
quantised a second time: of SDXL's UNet that would save 0.1 GiB and cost two kernels more whenever
a layer's weight is needed. ``int8`` has one scale for each output, so that W ≈ codes · scale, and
needs no library. (LLM.int8, bitsandbytes' own, rounds the inputs as well, and to spare outliers it
waits for the GPU in each layer.)
"""

from typing import Literal

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

Kind = Literal["nf4", "int8"]

BLOCK = 64
"""Weights with one scale in nf4, along the rows."""


def fits(weight: Tensor, kind: Kind) -> bool:
    """Whether a weight can be encoded: nf4 takes whole blocks."""
    return kind == "int8" or weight.numel() % BLOCK == 0


@torch.no_grad()
def encode(
    weight: Float[Tensor, "out in"], kind: Kind
) -> tuple[UInt8[Tensor, "bytes 1"] | Int8[Tensor, "out in"], Float[Tensor, "..."]]:
    """Return the codes of a weight and their scales in float32, on its device."""
    if kind == "int8":
        values = weight.float()
        scales = values.abs().amax(dim=1, keepdim=True) / 127
        # A row of zeros has the scale 0; divided by 1 its codes are 0.
        codes = (values / torch.where(scales > 0, scales, 1)).round_().to(torch.int8)
        return codes, scales
    from bitsandbytes.functional import quantize_4bit

    # As one row: on a CPU bitsandbytes (0.50) quantises blocks that reach over the ends of rows,
    # and dequantises such as if each row began a new one.
    codes, state = quantize_4bit(
        weight.contiguous().view(-1), blocksize=BLOCK, compress_statistics=False, quant_type="nf4"
    )
    return codes, state.absmax


@torch.no_grad()
def decode(
    codes: UInt8[Tensor, "bytes 1"] | Int8[Tensor, "out in"],
    scales: Float[Tensor, "..."],
    kind: Kind,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> Float[Tensor, "out in"]:
    """Return the weight (out, in) that codes stand for, in one kernel that nothing waits for."""
    if kind == "int8":
        weight = torch.empty(shape, dtype=dtype, device=codes.device)
        # The product is taken in float32: float16 has no room for small scales.
        return torch.mul(codes, scales, out=weight)
    flat: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        codes, scales, BLOCK, kind, (shape[0] * shape[1],), dtype
    )
    return flat.view(shape)
