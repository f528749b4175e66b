"""The form of kohya's scripts, which ComfyUI, A1111 and Forge read.

Each layer has ``lora_down`` (A), ``lora_up`` (B) and ``alpha``, from which readers make the update
alpha / r · B A. DoRA's magnitudes are ``dora_scale``: what all of these programs apply correctly is
the input axis, (1, in) beside W; of the output axis ComfyUI and Forge divide by the norms of W₀,
and A1111 is silently wrong. So a DoRA on the output axis is written as a plain LoRA that comes near
to W' − W, whose error is told, or not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from elf.adapters.presets import TEXT_ATTENTION
from elf.dtypes import DType
from elf.errors import ElfError
from elf.export.lowrank import LowRank, of_matrix, of_product
from elf.export.tensors import DTYPES, cast
from elf.export.trained import Layer

Namer = Callable[[Layer], str]
Weights = Callable[[Layer], Tensor]
"""Returns a layer's frozen weight."""


@dataclass
class KohyaFile:
    """What is to be written.

    Attributes:
        tensors: By their names.
        errors: Relative errors of the layers that were brought to another rank or from DoRA to
            LoRA, by their names in the pipeline; others are exact.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


def kohya_file(
    layers: list[Layer],
    namer: Namer,
    dtype: DType,
    weights: Weights | None = None,
    rank: int | None = None,
) -> KohyaFile:
    """Return the tensors of a file.

    Args:
        layers: The adapter.
        namer: Says what a layer is called there.
        dtype: Type of A and B.
        weights: Where frozen weights come from, which DoRA on the output axis needs.
        rank: Of all layers, at most; None keeps what was trained.

    Raises:
        ElfError: If weights are needed and there are none, or a value overflows.
    """
    written = KohyaFile()
    for layer in layers:
        name = namer(layer)
        a, b, scale = layer.a, layer.b, layer.scale
        dora = layer.magnitude is not None
        found: LowRank | None = None
        if dora and layer.axis == "output":
            if weights is None:
                raise ElfError("base: a DoRA on the output axis needs it; name it by --base")
            weight = weights(layer)
            delta = (layer.changed(weight) - weight.float()).flatten(1)
            found = of_matrix(delta, min(rank or layer.rank, *delta.shape))
        elif rank is not None and rank < layer.rank:
            if dora:
                raise ElfError(
                    "rank: a DoRA's norms are of its whole update; export it without --rank, or "
                    "train one of a smaller rank"
                )
            found = of_product(scale * layer.b, layer.a.flatten(1), rank)
        if found is not None:
            a, b, scale = found.a.view(-1, *layer.a.shape[1:]), found.b, 1.0
            written.errors[layer.label] = found.error
        up = b.view(*b.shape, *[1] * (a.dim() - 2))
        tensors = {
            f"{name}.lora_down.weight": a,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(scale * len(a)),
        }
        if dora and layer.axis == "input":
            assert layer.magnitude is not None
            tensors[f"{name}.dora_scale"] = layer.magnitude.view(1, -1, *[1] * (a.dim() - 2))
        written.tensors |= {key: cast(key, t, DTYPES[dtype]) for key, t in tensors.items()}
    return written


def partly_adapted(layers: Sequence[Layer]) -> bool:
    """Whether an attention of SDXL's second text encoder has an update in some projections alone.

    A1111 keeps q, k and v of it in one matrix, and passes over files without all of them.
    """
    found: dict[str, set[str]] = {}
    for layer in layers:
        attention, _, projection = layer.name.rpartition(".")
        if layer.part == "text_encoder_2" and attention.endswith("self_attn"):
            found.setdefault(attention, set()).add(projection)
    return any(len(each) < len(TEXT_ATTENTION) for each in found.values())


def refuse_errors(errors: Mapping[str, float], limit: float) -> None:
    """Refuse a conversion that is too far off.

    Raises:
        ElfError: If a layer's relative error is above the limit, with the worst and the way out.
    """
    worst = max(errors, key=lambda name: errors[name], default=None)
    if worst is not None and errors[worst] > limit:
        above = sum(error > limit for error in errors.values())
        raise ElfError(
            f"max_error: {above} of {len(errors)} layers would be off by more than {limit:.0%}, "
            f"{worst} by {errors[worst]:.1%}; give a larger --rank or --max_error, export to "
            "--target merged, or train axis: input, which this form holds exactly"
        )
