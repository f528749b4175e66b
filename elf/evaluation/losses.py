"""The rows and the curve of denoising errors, of pictures held out and of some that were trained.

Shapes: N pictures, K strata.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from elf.evaluation.plan import Variant
from elf.evaluation.rows import difference, skipped
from elf.evaluation.schema import Row, StratumLoss
from elf.metrics import paired_difference
from elf.training.validation import ValidationRun
from elf.training.validationsets import HELD_OUT, TRAINED

NAMES = {HELD_OUT: "held_out_loss", TRAINED: "trained_loss"}


def loss_rows(losses: ValidationRun, variants: Sequence[Variant]) -> list[Row]:
    """Return base's and adapter's loss on each set, paired by picture, strata nested.

    It is the loss of the adapter as it was trained, so it stands beside the strength nearest to 1.
    """
    variant = as_trained(variants)
    rows = []
    for kind, name in NAMES.items():
        errors = losses.sets[kind]
        if not len(errors):
            rows.append(skipped(name, "no such pictures; set data.shards, and data.held_out there"))
            continue
        adapter, base = errors.arrays()
        rows.append(
            Row(
                name,
                variant.name,
                float(base.mean()),
                float(adapter.mean()),
                difference(paired_difference(base, adapter)),
                len(base),
                None,
                "lower",
                f"{len(base)} picture{'s' * (len(base) > 1)}, at strength 1",
            )
        )
    return rows


def loss_curve(
    losses: Mapping[str, ValidationRun], timesteps: Sequence[int]
) -> tuple[StratumLoss, ...]:
    """Return the held-out loss per timestep: the base's, then each adapter's.

    Args:
        losses: Of each adapter, by the name of the variant it stands for.
        timesteps: Of the strata (K).
    """
    found: list[StratumLoss] = []
    for number, (name, run) in enumerate(losses.items()):
        if not len(run.sets[HELD_OUT]):
            continue
        adapter, base = (errors.mean(axis=0) for errors in run.sets[HELD_OUT].arrays())
        for variant, means in ((None if number else "base", base), (name, adapter)):
            if variant is not None:
                found += [
                    StratumLoss(variant, timestep, float(mean))
                    for timestep, mean in zip(timesteps, means, strict=True)
                ]
    return tuple(found)


def as_trained(variants: Sequence[Variant]) -> Variant:
    """Return the variant whose strength is 1, or nearest to it; one below 0 is of another sign."""

    def distance(variant: Variant) -> tuple[bool, float]:
        return variant.factor < 0, abs(float(np.log(abs(variant.factor))))

    return min(variants, key=distance)
