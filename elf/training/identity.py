"""What must not change when a run goes on."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from elf.errors import ElfError, ElfWarning

ADDED = {"model.caption_tokens": 75, "model.quantization": None}
"""What came after the first checkpoints, with the value that runs had before there was a choice."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and dataclasses as one mapping of dotted keys to plain values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def warn_of_precision(mine: str, saved: str | None) -> None:
    """Say that a run goes on in another precision, as it may have to on another card."""
    if saved is not None and saved != mine:
        warnings.warn(
            f"trainer.precision is {mine} here and {saved} in the checkpoint: the run goes on, but "
            "not bit by bit as it would have",
            ElfWarning,
            stacklevel=2,
        )


def refuse_other_run(mine: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another configuration.

    Args:
        mine: Values of this configuration by their keys.
        saved: Those of the checkpoint; none if there is no checkpoint.

    Raises:
        ElfError: With the first key that differs, and both values.
    """
    for key in mine if saved else ():
        theirs = saved.get(key, ADDED.get(key, mine[key]))
        if theirs != mine[key]:
            way = "change it back"
            # nobody gives this one: it comes of the run's length
            if key == "model.schedule.total_steps" and theirs and mine[key]:
                way = (
                    "set trainer.max_steps back, or keep a schedule that ends above 0 by "
                    f"--{key} {theirs}"
                )
            raise ElfError(
                f"{key} is {mine[key]!r} here and {theirs!r} in the checkpoint; a run goes "
                f"on as it began: {way}, or start a new run without --ckpt_path"
            )
