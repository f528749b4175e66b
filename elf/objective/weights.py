"""How much each sample's error counts, by its timestep.

Symbols follow the papers: ᾱ_t the product of all (1 − β) up to t, SNR(t) = ᾱ_t / (1 − ᾱ_t).
Shapes: B samples, T training timesteps.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Weighting = Literal["none", "min_snr", "debiased"]

LARGEST_SNR = 1000.0
"""Of the debiased weight; kohya's scripts cap there too."""


def signal_to_noise(
    timesteps: Int[Tensor, " B"], alphas_cumprod: Float[Tensor, " T"]
) -> Float[Tensor, " B"]:
    """Return SNR(t) = ᾱ_t / (1 − ᾱ_t) (Kingma et al. 2021)."""
    alpha = alphas_cumprod[timesteps]
    return alpha / (1 - alpha)


def min_snr_weight(
    prediction_type: str, snr: Float[Tensor, " B"], gamma: float
) -> Float[Tensor, " B"]:
    """Return the min-SNR-γ weight (Hang et al. 2023, section 3.4).

    min(SNR, γ) / SNR for an ε target, min(SNR, γ) / (SNR + 1) for a v target. At zero SNR the
    first is 0/0 and the second is 0: a v step there trains nothing.
    """
    capped = snr.clamp(max=gamma)
    return capped / snr if prediction_type == "epsilon" else capped / (snr + 1)


def debiased_weight(prediction_type: str, snr: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the weight of debiased estimation (Yu et al. 2024, arXiv 2310.08442), SNR ≤ 1000.

    1 / √SNR for an ε target. The paper has no v target: it gets 1 / (SNR + 1), as in kohya's
    scripts, which is finite at zero SNR.
    """
    capped = snr.clamp(max=LARGEST_SNR)
    return 1 / capped.sqrt() if prediction_type == "epsilon" else 1 / (capped + 1)


def weight(
    weighting: Weighting,
    prediction_type: str,
    timesteps: Int[Tensor, " B"],
    alphas_cumprod: Float[Tensor, " T"],
    gamma: float,
) -> Float[Tensor, " B"]:
    """Return the weights of a batch by the name of the weighting."""
    snr = signal_to_noise(timesteps, alphas_cumprod)
    if weighting == "min_snr":
        return min_snr_weight(prediction_type, snr, gamma)
    if weighting == "debiased":
        return debiased_weight(prediction_type, snr)
    return torch.ones_like(snr)
