"""The noise that a base was trained on, and a sampler that goes with it."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from elf.errors import ElfError

PredictionType = Literal["epsilon", "v_prediction"]

# Samplers whose sigmas or steps are no discrete DDPM schedule's.
_CONTINUOUS = ("EDM", "FlowMatch")
_MOST_STEPS = 100_000  # of a schedule: bases have 1,000, and each takes memory


def overridden(
    config: Mapping[str, Any],
    prediction_type: str | None,
    zero_terminal_snr: bool | None,
    where: object,
) -> dict[str, Any]:
    """Return a scheduler's configuration with what the user says over what the base says.

    Args:
        config: Of ``scheduler_config.json``.
        prediction_type: What the denoiser predicts; None leaves it to the base.
        zero_terminal_snr: Whether the last timestep has no signal (Lin et al. 2023, algorithm 1);
            None leaves it to the base.
        where: The base, for the message.

    Raises:
        ElfError: If the base's noise is no discrete schedule, or the prediction type is unknown.
    """
    sampler = str(config.get("_class_name", ""))
    if sampler.startswith(_CONTINUOUS):
        raise ElfError(
            f"base model: {where} is made for {sampler}, whose noise levels Elf does not train; "
            "name a base with a DDPM noise schedule"
        )
    known = get_args(PredictionType)
    if prediction_type is not None and prediction_type not in known:
        raise ElfError(f"prediction_type: {prediction_type!r} is none of {', '.join(known)}")
    merged = dict(config)
    if prediction_type is not None:
        merged["prediction_type"] = prediction_type
    if zero_terminal_snr is not None:
        merged["rescale_betas_zero_snr"] = zero_terminal_snr
    if merged.setdefault("prediction_type", "epsilon") not in known:
        raise ElfError(
            f"base model: {where} predicts {merged['prediction_type']!r}; Elf trains bases that "
            f"predict {' or '.join(known)}"
        )
    steps = merged.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 0 < steps <= _MOST_STEPS:
        raise ElfError(
            f"base model: {where} has num_train_timesteps {str(steps)[:40]!r} in its scheduler's "
            f"configuration; it is a whole number up to {_MOST_STEPS:,}: download it again"
        )
    return merged


def noise_schedule(config: Mapping[str, Any]) -> Any:
    """Return the noise schedule to train on, as diffusers' ``DDPMScheduler``.

    diffusers gives 1000 linear betas where a configuration names none; those of Stable Diffusion
    name theirs.

    Raises:
        ElfError: If the configuration gives none.
    """
    from diffusers import DDPMScheduler

    return _made(DDPMScheduler, dict(config))


def sampler(config: Mapping[str, Any]) -> Any:
    """Return the base's own sampler; with zero-terminal SNR always Euler's, from the last timestep.

    With ᾱ = 0 at the last timestep a sampler must begin there (``trailing``; Lin et al. 2023,
    section 3.3). PNDM cannot, and DDIM divides by 0 if the base predicts ε; diffusers' Euler takes
    ᾱ = 2⁻²⁴ instead.

    Raises:
        ElfError: If the configuration gives none.
    """
    import diffusers

    config = dict(config)
    if config.get("rescale_betas_zero_snr"):
        cls = diffusers.EulerDiscreteScheduler
        config["timestep_spacing"] = "trailing"
    else:
        cls = getattr(diffusers, str(config.get("_class_name")), None)
        if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
            cls = diffusers.DDIMScheduler
    return _made(cls, config)


def _made(cls: Any, config: dict[str, Any]) -> Any:
    try:
        return cls.from_config(config)
    except Exception as error:  # diffusers raises anything on values of other kinds
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise ElfError(
            f"base model: its scheduler's configuration gives no noise schedule ({why}); "
            "download it again"
        ) from None
