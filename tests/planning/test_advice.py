"""What is advised is true: a step planned with it fits."""

import dataclasses
from pathlib import Path

import pytest
import torch

from elf.adapters import AdapterConfig
from elf.bases import open_base
from elf.objective import ObjectiveConfig
from elf.planning import Choice, Footprint, PlannedTraining
from elf.planning.advice import all_together, changes
from elf.planning.memory import MIB
from elf.training.optimization import LearningRates, adamw

CHOICE = Choice(8, False, None, adamw)


@pytest.fixture(scope="module")
def training(tiny_models: dict[str, Path]) -> PlannedTraining:
    return PlannedTraining(
        open_base(str(tiny_models["base"])),
        AdapterConfig("lora", 8),
        ObjectiveConfig(),
        torch.float32,
        "cached",
        LearningRates(),
    )


@pytest.fixture(scope="module")
def measured(training: PlannedTraining) -> "Measured":
    return Measured(training)


class Measured:
    """Plans steps, and remembers them."""

    def __init__(self, training: PlannedTraining) -> None:
        self._training = training
        self._known: dict[Choice, Footprint] = {}

    def __call__(self, choice: Choice) -> Footprint:
        if choice not in self._known:
            self._known[choice] = self._training.footprint(choice, (64, 64))
        return self._known[choice]


def advised(measured: Measured, room: int) -> dict[str, int]:
    found = changes(CHOICE, measured(CHOICE), room, measured)
    return {change.keys: change.memory.total for change in found}


@pytest.mark.parametrize(
    "share", [*(pytest.param(each, marks=pytest.mark.slow) for each in (0.95, 0.9)), 0.8]
)
def test_what_is_advised_fits(measured: Measured, share: float) -> None:
    room = int(share * measured(CHOICE).memory.total)
    found = advised(measured, room)
    assert found
    assert all(total <= room for total in found.values())
    for keys, total in found.items():
        key, _, value = keys.rpartition(" ")
        if key == "data.batch_size":
            other = dataclasses.replace(CHOICE, batch=int(value))
        elif key == "model.gradient_checkpointing":
            blocks = True if value == "true" else tuple(value.strip("[]").split(","))
            other = dataclasses.replace(CHOICE, gradient_checkpointing=blocks)
        else:
            continue
        assert measured(other).memory.total == total


def test_the_batch_is_the_largest_that_fits(measured: Measured) -> None:
    room = measured(dataclasses.replace(CHOICE, batch=5)).memory.total
    keys = [keys for keys in advised(measured, room) if keys.startswith("data.batch_size")]
    assert keys == ["data.batch_size 5"]


def test_few_blocks_are_advised_where_few_suffice(measured: Measured) -> None:
    """Those that leave the most, and one less would not do."""
    now = measured(CHOICE)
    every = measured(dataclasses.replace(CHOICE, gradient_checkpointing=True)).memory.total
    largest = max(now.left, key=lambda name: now.left[name])
    room = now.memory.total - (now.memory.total - every) // 8
    keys = [keys for keys in advised(measured, room) if "gradient_checkpointing" in keys]
    assert keys == [
        f"model.gradient_checkpointing [{largest}]",
        "model.gradient_checkpointing true",
    ]
    room = (now.memory.total + every) // 2
    (few, _) = [keys for keys in advised(measured, room) if "gradient_checkpointing" in keys]
    blocks = tuple(few.rpartition(" ")[2].strip("[]").split(","))
    assert 1 < len(blocks) < len(now.left)
    fewer = dataclasses.replace(CHOICE, gradient_checkpointing=blocks[:-1])
    assert measured(fewer).memory.total > room


@pytest.mark.slow
def test_where_all_blocks_are_needed_no_list_of_them_is_advised(measured: Measured) -> None:
    every = measured(dataclasses.replace(CHOICE, gradient_checkpointing=True)).memory.total
    keys = [keys for keys in advised(measured, every) if "gradient_checkpointing" in keys]
    assert keys == ["model.gradient_checkpointing true"]


def test_changes_that_do_not_suffice_are_not_advised(measured: Measured) -> None:
    now = measured(CHOICE).memory.total
    # an 8-bit state saves less than a MiB here, quantised weights less than 8
    found = advised(measured, now - 8 * MIB)
    assert not [keys for keys in found if "8bit" in keys or "quantization" in keys]
    assert [keys for keys in advised(measured, now - 10) if "AdamW8bit" in keys]


def test_nothing_is_advised_where_nothing_helps(measured: Measured) -> None:
    assert advised(measured, 1 * MIB) == {}
    together = all_together(CHOICE, measured)
    assert "batch_size 1 and model.quantization" in together.keys
    small = dataclasses.replace(CHOICE, batch=1, gradient_checkpointing=True)
    assert 1 * MIB < together.memory.total < measured(small).memory.total
