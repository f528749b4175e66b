"""Initial A and B that are taken from the frozen weight, and from what it sees of data.

PiSSA and OLoRA need the weight alone, CorDA its inputs' second moment, too, EVA their covariance,
and LoRA-GA the gradient of the loss. But for EVA, whose B is zero, their authors take s B₀A₀ out of
the frozen weight, which then is no longer the base's: an adapter that is off, or a file loaded onto
the base, would be another network. Elf leaves the weight alone and gives the layer the update
s (BA − B₀A₀), which is the same function of A and B. A₀ and B₀ are part of the adapter's state, as
a decomposition may differ in signs from machine to machine; in files for others the update is one
of twice the rank: [B − B₀, B₀] [A; A − A₀].
"""

import torch
from jaxtyping import Float
from torch import Tensor

from elf.errors import ElfError

GAMMA = 16  # of LoRA-GA

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


def eva(covariance: Float[Tensor, "in in"], rank: int) -> Float[Tensor, "r in"]:
    """Return A₀, the axes along which a layer's inputs vary most (Paischer et al. 2024).

    B₀ is zero, and all layers keep their rank: the authors' ρ is 1.

    Args:
        covariance: Of the inputs, in float32.
        rank: Number of axes.
    """
    return _leading(covariance, rank)[2]


def corda(
    weight: Float[Tensor, "out in"], moment: Float[Tensor, "in in"], rank: int, scale: float
) -> Factors:
    """Return A₀ and B₀ with s B₀A₀ what of W matters most to its inputs (Yang et al. 2024).

    With W C = U Σ Vᵀ, s B₀A₀ is the part of U Σ Vᵀ C⁻¹ = W of the largest Σ: their instruction
    previewed mode. C is scaled to a mean diagonal of 1, so that for white inputs it is PiSSA's.

    Args:
        weight: W, in float32.
        moment: C, the second moment E[x xᵀ] of the inputs, in float32.
        rank: Number of singular values.
        scale: s.
    """
    size = len(moment)
    identity = torch.eye(size, device=moment.device)
    moment = moment * (size / moment.trace().clamp(min=1e-30))
    damping = 0.01
    while True:  # the authors' way to an inverse that is one: inputs need not span their space
        damped = (moment + damping * identity) / (1 + damping)
        inverse = torch.linalg.inv(damped)
        if torch.dist(damped @ inverse, identity) < 0.05:
            break
        damping *= 2
    left, values, right = _leading(weight @ damped, rank)
    roots = (values / scale).sqrt()
    return roots[:, None] * (right @ inverse), left * roots


def lora_ga(gradient: Float[Tensor, "out in"], rank: int) -> Factors | None:
    """Return A₀ and B₀ whose first step is closest to that of W itself (Wang et al. 2024).

    With G = U Σ Vᵀ, A₀ = η V₁…ᵣᵀ and B₀ = η Uᵣ₊₁…₂ᵣ, η² = √out / γ and γ = 16 as theirs. (peft
    multiplies B₀ by Σ, which makes the adapter's scale the loss's.)

    Args:
        gradient: G, of the loss to W, in float32, by any factor.
        rank: Half the number of singular vectors.

    Returns:
        None for a gradient of zero, which has no directions.
    """
    if not gradient.any():
        return None
    left, _, right = _leading(gradient / gradient.abs().max(), 2 * rank)
    scale = float(len(gradient) ** 0.25 / GAMMA**0.5)
    return scale * right[:rank], scale * left[:, rank:]


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest singular values and their vectors: (m, r), (r,), (r, n).

    By a randomised decomposition (Halko et al. 2011) with twice as many directions and four passes:
    hundreds of layers would take minutes by the exact one.
    """
    left, values, columns = torch.svd_lowrank(matrix, min(2 * rank + 8, *matrix.shape), niter=4)
    return left[:, :rank], values[:rank], columns.T[:rank]


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
    most = min(shape) // (2 if init == "lora_ga" else 1)
    if init != "orthogonal" and rank > most:
        raise ElfError(
            f"model.adapter.rank: {init} has no {rank} directions in {name}, whose weight is "
            f"{' × '.join(map(str, shape))}; take at most {most}"
        )


def initial_factors(weight: Float[Tensor, "out in"], rank: int, scale: float, init: str) -> Factors:
    """Return A₀ and B₀ of a linear layer by the name of an initialisation."""
    if init == "olora":
        return olora(weight.float(), rank)
    passes = int(init.rsplit("_", 1)[1]) if "niter" in init else None
    return pissa(weight.float(), rank, scale, passes)
