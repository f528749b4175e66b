"""What an adapter is: the values of ``model.adapter`` in a YAML, and which make no sense."""

import difflib
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from elf.adapters.dora import Axis
from elf.errors import ElfError

FROM_DATA = ("eva", "corda", "lora_ga")
"""Those that some of the training's own samples decide, before its first step."""

INITIALISATIONS = (
    *("kaiming", "gaussian", "orthogonal", "pissa", "pissa_niter_N", "olora"),
    *FROM_DATA,
)
EXACTLY = tuple(name for name in INITIALISATIONS if not name.endswith("_N"))
REFUSED = {
    "loftq": "it repairs a quantised base, and its file is loaded onto one that is not",
    "mica": "it freezes B, of which no other part of a run knows",
}
"""What peft has besides, and why Elf does not offer it."""

UNetTargets = Literal[
    "attention",
    "attention+feedforward",
    "attention+feedforward+projections",
    "attention+feedforward+convolutions",
]
TextTargets = Literal["attention", "attention+feedforward"]


@dataclass
class AdapterGroup:
    """Layers that get another rank, alpha or learning rate than the rest.

    Attributes:
        pattern: Which of the trained layers, written like an entry of ``targets``; it may begin
            with the network (``text_encoder.*``, ``unet.mid_block.*``).
        rank: Their rank; the adapter's when left out.
        alpha: Their alpha; when left out the adapter's or, if that has none, their rank.
        lr_scale: Factor on their network's learning rate.
    """

    pattern: str
    rank: int | None = None
    alpha: float | None = None
    lr_scale: float = 1.0


@dataclass
class AdapterConfig:
    r"""What is trained.

    An entry of a list of targets is the end of a module's name (``to_q``), a glob over the whole
    name (``up_blocks.1.*.to_q``; ``*`` takes dots, too), or, after ``re:``, a regular expression
    that the whole name matches (``re:up_blocks\.[12]\..*to_[kv]``).

    Attributes:
        kind: LoRA (Hu et al. 2021), or DoRA (Liu et al. 2024), which learns magnitudes too.
        rank: Rank of the update ΔW = s · B A.
        alpha: Numerator of its scale s; ``rank`` when left out.
        targets: Which layers of the UNet: a preset, or a list of patterns.
        dropout: Probability that the update W' − W does not see an input, while training.
        axis: Of DoRA's norms: ``output`` is the paper's; ``input`` is Elf's own variant.
        rslora: s = alpha / √rank (Kalajdzievski 2023) instead of alpha / rank.
        init: How A and B begin: kaiming, gaussian, orthogonal, pissa, pissa_niter_N, olora, eva,
            corda or lora_ga.
        init_samples: From how many samples of the training eva, corda and lora_ga begin.
        text_targets: Which layers of the text encoders; none when left out.
        groups: Layers with a rank, alpha or learning rate of their own; the first that fits counts.
        start: A run's folder, a checkpoint or an exported file whose adapter is trained on.
    """

    kind: Literal["lora", "dora"] = "lora"
    rank: int = 16
    alpha: float | None = None
    targets: UNetTargets | list[str] = "attention"
    dropout: float = 0.0
    axis: Axis = "output"
    rslora: bool = False
    init: str = "kaiming"
    init_samples: int = 64
    text_targets: TextTargets | list[str] | None = None
    groups: list[AdapterGroup] = field(default_factory=list)
    start: str | None = None

    def __post_init__(self) -> None:
        """Accept groups as plain values, as checkpoints hold them."""
        self.groups = [
            AdapterGroup(**group) if isinstance(group, dict) else group for group in self.groups
        ]

    @property
    def subtracts(self) -> bool:
        """Whether A and B begin away from zero, so that the update is s (B A − B₀ A₀)."""
        return self.init.startswith(("pissa", "olora", "corda", "lora_ga"))

    @property
    def needs_data(self) -> bool:
        """Whether A and B are known only once some samples were seen."""
        return self.init in FROM_DATA

    def scaling(self, rank: int, alpha: float) -> float:
        """Return s of a layer."""
        return float(alpha / (rank**0.5 if self.rslora else rank))


def validate(config: AdapterConfig) -> None:
    """Refuse what makes no sense whatever the network is.

    Raises:
        ElfError: With the name of the first such value.
    """
    _refuse_numbers("model.adapter", config.rank, config.alpha)
    if not 0 <= config.dropout < 1:
        raise ElfError(f"model.adapter.dropout: {config.dropout} must be in [0, 1)")
    if config.axis == "input" and config.kind == "lora":
        raise ElfError("model.adapter.axis: input is an axis of DoRA's norms; set kind: dora")
    for number, group in enumerate(config.groups):
        key = f"model.adapter.groups[{number}]"
        rank = config.rank if group.rank is None else group.rank
        _refuse_numbers(key, rank, group.alpha)
        if group.lr_scale < 0:
            raise ElfError(f"{key}.lr_scale: {group.lr_scale} must not be below 0")
    _refuse_init(config)


def _refuse_numbers(key: str, rank: int, alpha: float | None) -> None:
    if rank < 1:
        raise ElfError(f"{key}.rank: {rank} is not a rank; take 4 to 128")
    if alpha is not None and alpha <= 0:
        raise ElfError(f"{key}.alpha: {alpha} must be above 0; rank is usual")


def _refuse_init(config: AdapterConfig) -> None:
    init = config.init
    if init in REFUSED:
        raise ElfError(f"model.adapter.init: {init} is not offered: {REFUSED[init]}")
    if init not in EXACTLY and not re.fullmatch(r"pissa_niter_\d+", init):
        near = difflib.get_close_matches(init, INITIALISATIONS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ElfError(
            f"model.adapter.init: {init!r} is none of {', '.join(INITIALISATIONS)}{hint}"
        )
    if config.start is not None and init != "kaiming":
        raise ElfError(
            f"model.adapter.start: what is in {config.start} is where A and B begin; leave out "
            f"init: {init}"
        )
    if config.init_samples < 1:
        raise ElfError(
            f"model.adapter.init_samples: {config.init_samples} must be at least 1; 64 is usual"
        )
    ranks = [config.rank, *(group.rank for group in config.groups if group.rank is not None)]
    odd = [rank for rank in ranks if rank % 2]
    if init == "orthogonal" and odd:
        raise ElfError(f"model.adapter.init: orthogonal needs even ranks, not {odd[0]}")


def describe(config: AdapterConfig) -> dict[str, Any]:
    """Return the configuration as plain values, to be compared when a run goes on.

    Where it started is no part of it: what goes on has started.
    """
    return {key: value for key, value in asdict(config).items() if key != "start"}
