"""Are the pictures distributed as the references are? KID, CMMD and FID of embeddings.

KID and CMMD are full U-statistics, so that their mean is 0 between equal distributions of any
size, and a single value may be below 0. An estimator that keeps the diagonal is above 0 there.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from elf.errors import ElfError
from elf.metrics.embeddings import checked, normalise

Array = np.ndarray
Kernel = Callable[[Array], Array]  # of inner products

FID_MINIMUM = 2048  # pictures a side
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
BLOCK = 1024  # rows of a kernel matrix that are held at a time


def kid(pictures: Float[Array, "N D"], references: Float[Array, "M D"]) -> float:
    """Return the kernel distance: squared MMD with the kernel (x·y / D + 1)³.

    Bińkowski et al. 2018, Demystifying MMD GANs, there of Inception's embeddings. All pairs at once
    instead of the mean over random subsets, which has more noise.

    Raises:
        ElfError: If a side has less than 2 pictures, or an embedding is not usable.
    """
    width = pictures.shape[1]
    return _squared_mmd(
        checked(pictures, "pictures"),
        checked(references, "references"),
        lambda products: (products / width + 1) ** 3,
        "KID",
    )


def cmmd(pictures: Float[Array, "N D"], references: Float[Array, "M D"]) -> float:
    """Return CMMD: squared MMD × 1000 of unit embeddings, with exp(−‖x − y‖² / 2σ²), σ = 10.

    Jayasumana et al. 2024, Rethinking FID, there of CLIP's embeddings.

    Raises:
        ElfError: If a side has less than 2 pictures, or an embedding is not usable.
    """
    return CMMD_SCALE * _squared_mmd(
        normalise(pictures, "pictures"),
        normalise(references, "references"),
        lambda products: np.exp((products - 1) / CMMD_SIGMA**2),  # ‖x − y‖² = 2 − 2 x·y
        "CMMD",
    )


def fid(pictures: Float[Array, "N D"], references: Float[Array, "M D"]) -> float:
    """Return the Fréchet distance between normal distributions of the sides' mean and covariance.

    Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, equation 6. Tr (Σ₁Σ₂)^½ is
    taken as the trace of the symmetric (Σ₁^½ Σ₂ Σ₁^½)^½, whose eigenvalues are real.

    Raises:
        ElfError: If a side has less than ``FID_MINIMUM`` pictures, where the covariance of 2,048
            features is rank-deficient and the distance mostly says how many pictures there were;
            or if an embedding is not usable.
    """
    smaller = min(len(pictures), len(references))
    if smaller < FID_MINIMUM:
        raise ElfError(
            f"FID needs {FID_MINIMUM} pictures a side and has {smaller}; read KID or CMMD instead"
        )
    ours, theirs = checked(pictures, "pictures"), checked(references, "references")
    means = ((ours.mean(axis=0) - theirs.mean(axis=0)) ** 2).sum()
    first, second = (np.atleast_2d(np.cov(side, rowvar=False)) for side in (ours, theirs))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # rounding may leave −1e-17
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return max(0.0, float(means + np.trace(first) + np.trace(second) - 2 * shared))


def _squared_mmd(
    pictures: Float[Array, "N D"], references: Float[Array, "M D"], kernel: Kernel, name: str
) -> float:
    """Return the unbiased squared MMD (Gretton et al. 2012, equation 3, for N ≠ M)."""
    if min(len(pictures), len(references)) < 2:
        raise ElfError(
            f"{name} needs 2 pictures a side and has {len(pictures)} against {len(references)}; "
            "generate more, or give more references"
        )
    across = _kernel_sum(pictures, references, kernel) / (len(pictures) * len(references))
    return _mean_of_pairs(pictures, kernel) + _mean_of_pairs(references, kernel) - 2 * across


def _mean_of_pairs(side: Float[Array, "N D"], kernel: Kernel) -> float:
    """Return the kernel's mean over pairs of two different rows."""
    diagonal = float(kernel(np.einsum("nd,nd->n", side, side)).sum())
    return (_kernel_sum(side, side, kernel) - diagonal) / (len(side) * (len(side) - 1))


def _kernel_sum(first: Float[Array, "N D"], second: Float[Array, "M D"], kernel: Kernel) -> float:
    blocks = (first[start : start + BLOCK] for start in range(0, len(first), BLOCK))
    return sum(float(kernel(block @ second.T).sum()) for block in blocks)
