"""What would make a training fit that does not: computed, change by change."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from elf.errors import ElfError
from elf.planning.memory import Memory, optimizer_state
from elf.planning.steps import Choice, Footprint

Measured = Callable[[Choice], Footprint]

_ADAMS = ("Adam", "AdamW")

TRIES = 3
"""Lists of blocks that are planned at most, each of which takes as long as a plan."""


class Change(NamedTuple):
    """A change of the configuration, and what a step then takes.

    Attributes:
        keys: What to set, as on the command line without its dashes.
        memory: With it.
        note: What it costs.
    """

    keys: str
    memory: Memory
    note: str = ""


def changes(choice: Choice, now: Footprint, room: int, measured: Measured) -> Iterator[Change]:
    """Yield each single change that makes a step fit.

    Args:
        choice: As configured.
        now: What it takes.
        room: Bytes there are.
        measured: Returns what another choice takes.
    """
    for change in _tried(choice, now, room, measured):
        if change.memory.total <= room:
            yield change


def _tried(choice: Choice, now: Footprint, room: int, measured: Measured) -> Iterator[Change]:
    if choice.gradient_checkpointing is not True:
        other = dataclasses.replace(choice, gradient_checkpointing=True)
        memory = measured(other).memory
        if memory.total <= room and not choice.gradient_checkpointing:
            yield from _few_blocks(choice, now, room, measured)
        yield Change("model.gradient_checkpointing true", memory, "a third more time")
    if choice.batch > 1 and (smaller := _largest_batch(choice, now, room, measured)):
        yield smaller
    if choice.quantization is None:
        yield from _quantized(choice, measured)
    if now.optimizer in _ADAMS:
        yield _with_8bit(now)


def _few_blocks(choice: Choice, now: Footprint, room: int, measured: Measured) -> Iterator[Change]:
    """Yield the fewest blocks that suffice, of those that leave the most alive.

    The first try takes them for what they leave; recomputed they leave their inputs, and need a
    part of it again, so that some more may have to follow.
    """
    blocks = sorted(now.left, key=lambda name: now.left[name], reverse=True)
    missing, number = now.memory.total - room, 1
    while number < len(blocks) and sum(now.left[name] for name in blocks[:number]) < missing:
        number += 1
    for tried in range(number, min(number + TRIES, len(blocks))):
        chosen = tuple(blocks[:tried])
        memory = measured(dataclasses.replace(choice, gradient_checkpointing=chosen)).memory
        if memory.total <= room:
            named = f"model.gradient_checkpointing [{','.join(chosen)}]"
            yield Change(named, memory, "less than a third more time")
            return


def _quantized(choice: Choice, measured: Measured) -> Iterator[Change]:
    for kind in ("int8", "nf4"):
        try:
            memory = measured(dataclasses.replace(choice, quantization=kind)).memory
        except ElfError:  # its library is missing, or the adapter's start does not suit it
            continue
        yield Change(f"model.quantization {kind}", memory, "a slower step")


def _with_8bit(now: Footprint) -> Change:
    state = optimizer_state("AdamW8bit", now.shapes).size
    trained = now.memory.trained - now.state.size + state
    key = "model.optimizer bitsandbytes.optim.AdamW8bit"
    return Change(key, dataclasses.replace(now.memory, trained=trained), "its step is not captured")


def _largest_batch(choice: Choice, now: Footprint, room: int, measured: Measured) -> Change | None:
    """Return the largest batch that fits: memory is a line in it, which one more point gives."""
    one = measured(dataclasses.replace(choice, batch=1)).memory
    if one.total > room:
        return None
    slope = (now.memory.total - one.total) / (choice.batch - 1)
    batch = max(1, min(choice.batch - 1, 1 + int((room - one.total) / slope)))
    memory = one if batch == 1 else measured(dataclasses.replace(choice, batch=batch)).memory
    while memory.total > room and batch > 1:
        batch -= 1
        memory = measured(dataclasses.replace(choice, batch=batch)).memory
    return Change(f"data.batch_size {batch}", memory, "with more trainer.accumulate_grad_batches")


def all_together(choice: Choice, measured: Measured) -> Change:
    """Return all changes at once, batch 1 among them."""
    keys = ["model.gradient_checkpointing true", "data.batch_size 1"]
    other = dataclasses.replace(choice, gradient_checkpointing=True, batch=1)
    for kind in ("nf4", "int8"):
        try:
            found = measured(dataclasses.replace(other, quantization=choice.quantization or kind))
        except ElfError:
            continue
        keys += [f"model.quantization {kind}"] * (choice.quantization is None)
        break
    else:
        found = measured(other)
    change = _with_8bit(found) if found.optimizer in _ADAMS else Change("", found.memory)
    keys += [change.keys] * bool(change.keys)
    return Change(" and ".join(keys), change.memory)
