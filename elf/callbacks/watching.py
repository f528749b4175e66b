"""What every training gets to be looked at by, unless its configuration has one of its own."""

from collections.abc import Sequence

from lightning.pytorch import Callback

from elf.callbacks.adapter_file import AdapterFile
from elf.callbacks.recorder import TrainingRecorder
from elf.callbacks.run_page import RunPage
from elf.callbacks.run_record import RunRecord
from elf.callbacks.speed import SpeedRecorder

FIRST = (SpeedRecorder, RunRecord)
"""What stands before the others: the first measures the step alone, without their work."""

LAST = (TrainingRecorder, AdapterFile, RunPage)
"""What stands after them: the page shows what they have written."""


def with_watching(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return a training's callbacks with those that are missing, in the order that they need."""

    def missing(kinds: Sequence[type[Callback]]) -> list[Callback]:
        return [kind() for kind in kinds if not any(isinstance(each, kind) for each in callbacks)]

    return [*missing(FIRST), *callbacks, *missing(LAST)]
