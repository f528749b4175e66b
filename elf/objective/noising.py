"""What may be added to the noise of a training sample.

Shapes: B samples, C latent channels, h × w latent pixels.
"""

from jaxtyping import Float
from torch import Tensor


def offset_noise(
    noise: Float[Tensor, "B C h w"], offsets: Float[Tensor, "B C 1 1"], strength: float
) -> Float[Tensor, "B C h w"]:
    """Return ε + strength · o: noise whose channels' means vary, and are so learnt.

    Nicholas Guttenberg, "Diffusion with Offset Noise" (2023). It is the target too.

    Args:
        noise: ε, standard normal.
        offsets: o, standard normal.
        strength: 0.05 to 0.1 is usual.
    """
    return noise + strength * offsets


def perturb(
    noise: Float[Tensor, "B C h w"], extra: Float[Tensor, "B C h w"], strength: float
) -> Float[Tensor, "B C h w"]:
    """Return ε + strength · ξ, which makes the noisy latents; the target stays that of ε.

    So training sees inputs as far off as sampling's (Ning et al. 2023, "Input Perturbation Reduces
    Exposure Bias in Diffusion Models", algorithm 2).

    Args:
        noise: ε, standard normal.
        extra: ξ, standard normal.
        strength: γ of the paper, which takes 0.1.
    """
    return noise + strength * extra
