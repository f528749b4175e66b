"""Updates of a smaller rank, and how far they are off (Eckart & Young 1936)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class LowRank(NamedTuple):
    """An update B A.

    Attributes:
        a: A (r, columns).
        b: B (out, r).
        error: ‖ΔW − B A‖ / ‖ΔW‖, of the update that it stands for.
    """

    a: Float[Tensor, "r columns"]
    b: Float[Tensor, "out r"]
    error: float


def of_product(b: Float[Tensor, "out r"], a: Float[Tensor, "r columns"], rank: int) -> LowRank:
    """Return the best update of a rank for B A, by the singular values of its r × r core."""
    left, above = torch.linalg.qr(b)
    right, below = torch.linalg.qr(a.T)
    u, values, vh = torch.linalg.svd(above @ below.T)
    cut = _cut(u, values, vh, rank)
    return LowRank(cut.a @ right.T, left @ cut.b, cut.error)


def of_matrix(update: Float[Tensor, "out columns"], rank: int) -> LowRank:
    """Return a near best update of a rank for a ΔW (Halko et al. 2011); the error is exact."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = torch.svd_lowrank(update, min(rank + 8, *update.shape), niter=4)
    cut = _cut(found[0], found[1], found[2].T, rank)
    error = (update - cut.b @ cut.a).norm() / update.norm().clamp(min=1e-30)
    return cut._replace(error=float(error))


def _cut(u: Tensor, values: Tensor, vh: Tensor, rank: int) -> LowRank:
    root = values[:rank].sqrt()
    lost = values[rank:].square().sum() / values.square().sum().clamp(min=1e-30)
    return LowRank(root[:, None] * vh[:rank], u[:, :rank] * root, float(lost.sqrt()))
