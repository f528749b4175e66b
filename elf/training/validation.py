"""The validation loss: errors of pictures at fixed timesteps, with the adapter and without it.

What is measured of a picture depends on the picture alone, so neither batches, nor their order, nor
the number of processes change a figure: the errors are brought together by id before any mean is
taken.

Shapes: N pictures, K strata.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from elf.metrics import Interval, ratio_difference
from elf.processes import gather
from elf.training.validationsets import HELD_OUT, PREFIX, gap

Array = np.ndarray
Errors = npt.NDArray[np.float64]


def ratio_of_means(adapter: Float[Array, " N"], base: Float[Array, " N"]) -> Interval:
    """Return mean(adapter) / mean(base) with an interval over the pictures, which are paired."""
    change = ratio_difference(adapter - base, base)
    return Interval(1 + change.mean, 1 + change.low, 1 + change.high)


class PictureErrors:
    """Errors of one set of pictures, by id."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Errors, Errors]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self, ids: Sequence[str], adapter: Float[Array, "N K"], base: Float[Array, "N K"]
    ) -> None:
        """Add pictures; one that is there already is replaced."""
        wide = adapter.astype(np.float64), base.astype(np.float64)
        self._rows |= dict(zip(ids, zip(*wide, strict=True), strict=True))

    def update(self, others: Iterable["PictureErrors"]) -> None:
        """Add the pictures that other processes measured."""
        for other in others:
            self._rows |= other._rows

    def arrays(self) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
        """Return the errors with the adapter and without it, in the order of the ids."""
        rows = [self._rows[key] for key in sorted(self._rows)]
        adapter, base = (np.stack(errors) for errors in zip(*rows, strict=True))
        return adapter, base

    def metrics(self, prefix: str, strata: bool = True) -> dict[str, float]:
        """Return the means, their ratio with its interval, and the mean of each stratum."""
        adapter, base = self.arrays()
        ratio = ratio_of_means(adapter.mean(axis=1), base.mean(axis=1))
        found = {
            "loss": float(adapter.mean()),
            "loss_base": float(base.mean()),
            "ratio": ratio.mean,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }
        if strata:
            means = adapter.mean(axis=0)
            found |= {f"loss_stratum_{number}": float(mean) for number, mean in enumerate(means)}
        return {f"{prefix}/{key}": value for key, value in found.items()}


class ValidationRun:
    """What one run through the validation pictures found, in all sets and processes."""

    def __init__(self) -> None:
        self.sets = {name: PictureErrors() for name in PREFIX}

    def gather(self) -> None:
        """Bring the pictures of all processes together, in each of them."""
        shares = gather(self.sets)
        for name, errors in self.sets.items():
            errors.update(share[name] for share in shares)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the sets that have pictures, and the gap between new and trained.

        The gap is what the adapter learnt of the training pictures themselves.
        """
        found: dict[str, float] = {}
        for name, errors in self.sets.items():
            if len(errors):
                found |= errors.metrics(PREFIX[name], strata=name == HELD_OUT)
        return found | gap(found)
