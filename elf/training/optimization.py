"""The optimizer of a run: its groups of parameters, their learning rates, and clipping."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from elf.errors import ElfError

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
COMPARED = ("initial_lr", "lr", "weight_decay", "betas", "eps")
"""Options of an optimizer that must not change when a run goes on."""


def adamw(parameters: Iterable[Any]) -> Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019) with a learning rate that suits most adapters."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2, fused=True)


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of parts, where they differ from the optimizer's.

    Attributes:
        unet: Of the UNet's adapter.
        text_encoder: Of the text encoder's; usually half of the UNet's or less.
        text_encoder_2: Of the second text encoder's, in SDXL; as text_encoder if not given.
        lora_plus: Factor of the rate of all B (Hayou et al. 2024, LoRA+); 1 is off, 16 the paper's.
    """

    unet: float | None = None
    text_encoder: float | None = None
    text_encoder_2: float | None = None
    lora_plus: float = 1.0

    def __post_init__(self) -> None:
        """Refuse rates that are not above 0.

        Raises:
            ElfError: With the key.
        """
        for key, value in asdict(self).items():
            if value is not None and not value > 0:
                raise ElfError(f"model.learning_rates.{key} {value} must be above 0")

    def refuse_others(self, trained: Iterable[str]) -> None:
        """Refuse rates of parts that are not trained, which would change nothing.

        Raises:
            ElfError: With the key.
        """
        parts = set(trained)
        if "text_encoder_2" in parts:  # it may take the first one's
            parts.add("text_encoder")
        for key in ("unet", "text_encoder", "text_encoder_2"):
            rate = getattr(self, key)
            if rate is not None and key not in parts:
                raise ElfError(
                    f"model.learning_rates.{key} {rate}: there is no such part in training "
                    f"({', '.join(sorted(parts))}); leave it out, or set "
                    "model.adapter.text_targets if the base has it"
                )

    def of(self, part: str) -> float | None:
        """Return the rate of a part; None for the optimizer's own."""
        if part == "text_encoder_2" and self.text_encoder_2 is None:
            return self.text_encoder
        rate: float | None = getattr(self, part, None)
        return rate


Scaled = Sequence[tuple[float, Mapping[str, nn.Parameter]]]
"""Parameters, by name, for each factor of their learning rate."""


def make_optimizer(
    factory: OptimizerFactory, parts: Mapping[str, Scaled], rates: LearningRates
) -> Optimizer:
    """Return the optimizer of the trained parameters of each part, in named groups.

    A group is called as its part; ``_b`` behind that are its B with LoRA+, ``_x0.5`` those with a
    factor of 0.5.

    Args:
        factory: Makes the optimizer.
        parts: The trained parameters of each part.
        rates: Their rates.

    Raises:
        ElfError: If there is a rate of what is not trained.
    """
    rates.refuse_others(parts)
    groups: list[dict[str, Any]] = []
    factors: list[float] = []
    for part, scaled in parts.items():
        for scale, parameters in scaled:
            name = part if scale == 1 else f"{part}_x{scale:g}"
            split = {name: list(parameters.values())}
            if rates.lora_plus != 1:
                fast = {key: p for key, p in parameters.items() if ".lora_B." in key}
                slow = [p for key, p in parameters.items() if key not in fast]
                split = {name: slow, f"{name}_b": list(fast.values())}
            for key, values in split.items():
                group: dict[str, Any] = {"params": values, "name": key}
                if (rate := rates.of(part)) is not None:
                    group["lr"] = rate
                groups.append(group)
                factors.append(scale * (rates.lora_plus if key.endswith("_b") else 1.0))
    try:
        optimizer = factory(groups)
    except (TypeError, ValueError) as error:  # torch's, of a rate below 0, betas beyond 1 …
        reason = " ".join(str(error).split())
        raise ElfError(f"model.optimizer: {reason}; change it among the init_args") from None
    for made, factor in zip(optimizer.param_groups, factors, strict=True):
        made["lr"] = made["lr"] * factor
    return optimizer


def options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of each group that a run goes on with."""
    return [
        {"name": group["name"], **{key: group[key] for key in COMPARED if key in group}}
        for group in optimizer.param_groups
    ]


def refuse_others(optimizer: Optimizer, wanted: list[dict[str, Any]]) -> None:
    """Refuse to go on silently with other options than the configuration's.

    Args:
        optimizer: With the options of the checkpoint.
        wanted: The configuration's.

    Raises:
        ElfError: With the first that differs and both values.
    """
    for group, mine in zip(options(optimizer), wanted, strict=True):
        for key, value in mine.items():
            if key == "lr" and "initial_lr" in mine:
                continue  # the schedule has moved it
            if group.get(key) != value:
                name = "lr" if key == "initial_lr" else key
                raise ElfError(
                    f"model.optimizer.{name} is {value} here and {group.get(key)} in the "
                    "checkpoint; change it back, or start a new run without --ckpt_path"
                )


def clip_gradients(
    parameters: Iterable[Tensor], limit: float | None, algorithm: str | None = None
) -> Tensor:
    """Clip gradients in place, and return their norm before it; nothing waits for the device.

    Args:
        parameters: Those with gradients.
        limit: Largest norm, or value by the algorithm ``value``; None clips nothing.
        algorithm: ``norm`` (Pascanu et al. 2013; the default) or ``value``.
    """
    parameters = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit and algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    elif limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm
