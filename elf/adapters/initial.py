"""Initial A and B that are taken from the frozen weight: PiSSA and OLoRA.

Their authors take s B₀A₀ out of the frozen weight, which then is no longer the base's: an adapter
that is off, or a file loaded onto the base, would be another network. Elf leaves the weight alone
and gives the layer the update s (BA − B₀A₀), which is the same function of A and B. A₀ and B₀ are
part of the adapter's state, as a decomposition may differ in signs from machine to machine; in
files for others the update is one of twice the rank: [B − B₀, B₀] [A; A − A₀].
"""

import torch
from jaxtyping import Float
from torch import Tensor

from elf.errors import ElfError

Factors = tuple[Float[Tensor, "r in"], Float[Tensor, "out r"]]


def pissa(weight: Float[Tensor, "out in"], rank: int, scale: float, passes: int | None) -> Factors:
    """Return A₀ and B₀ with s B₀A₀ the best approximation of W of a rank (Meng et al. 2024).

    Args:
        weight: W, in float32.
        rank: Number of singular values.
        scale: s.
        passes: Of a randomized decomposition, fast; None for the exact one.
    """
    if passes is None:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        left, values, columns = torch.svd_lowrank(weight, rank, niter=passes)
        right = columns.T
    roots = (values[:rank] / scale).sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def olora(weight: Float[Tensor, "out in"], rank: int) -> Factors:
    """Return A₀ and B₀, the first rows of R and columns of Q in W = QR (Büyükakyüz 2024)."""
    orthogonal, triangular = torch.linalg.qr(weight)
    return triangular[:rank].contiguous(), orthogonal[:, :rank].contiguous()


def refuse_layer(name: str, shape: torch.Size, rank: int, init: str) -> None:
    """Refuse a layer that an initialisation cannot begin.

    Raises:
        ElfError: If it is a convolution, or has no such rank.
    """
    if init in ("kaiming", "gaussian"):
        return
    if len(shape) != 2:
        raise ElfError(
            f"model.adapter.init: {init} is for linear layers, and {name} is a convolution; "
            "take kaiming or gaussian, or leave convolutions out of the targets"
        )
    if init != "orthogonal" and rank > min(shape):
        raise ElfError(
            f"model.adapter.rank: {init} has no {rank} directions in {name}, whose weight is "
            f"{' × '.join(map(str, shape))}; take at most {min(shape)}"
        )


def initial_factors(weight: Float[Tensor, "out in"], rank: int, scale: float, init: str) -> Factors:
    """Return A₀ and B₀ of a linear layer by the name of an initialisation."""
    if init == "olora":
        return olora(weight.float(), rank)
    passes = int(init.rsplit("_", 1)[1]) if "niter" in init else None
    return pissa(weight.float(), rank, scale, passes)
