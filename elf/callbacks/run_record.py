"""What a run is made from, written into its folder at the start: for who repeats it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.environment import changes, environment
from elf.files import write_atomic
from elf.training.identity import flatten

RESUMED = "resumed"


class RunRecord(Callback):
    """Writes ``environment.json`` and ``data.json``.

    When a run goes on they keep what they say, and ``resumed`` tells what is another since: at
    which step, and the values before and after.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them, now that the step is known at which the run begins or goes on."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        now = environment() | {
            "precision": str(trainer.precision),
            "device": pl_module.device.type,
            "processes": trainer.world_size,
        }
        record(folder / "environment.json", now, trainer.global_step)
        data = described(trainer.datamodule)  # type: ignore[attr-defined]
        if data:
            record(folder / "data.json", data, trainer.global_step)


def record(path: Path, now: dict[str, Any], step: int) -> None:
    """Write what is now, or, from step 1 on, add what is another than before.

    Args:
        path: The file.
        now: Plain values.
        step: Optimizer steps done.
    """
    now = json.loads(json.dumps(now))  # as they would be read
    known = _read(path) if step else None
    if known is not None:
        resumed = known.pop(RESUMED, [])
        latest = flatten(known) | {
            key: value for each in resumed for key, (_, value) in each["changed"].items()
        }
        changed = changes(latest, flatten(now))
        if not changed:
            return
        now = {**known, RESUMED: [*resumed, {"step": step, "changed": changed}]}
    text = json.dumps(now, indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode(errors="replace"))  # what was there may hold half a character


def described(data: Any) -> dict[str, Any]:
    """Return what a training's data are, if they were prepared (``elf prepare``)."""
    prepared, settings = getattr(data, "prepared", None), getattr(data, "settings", None)
    if prepared is None or settings is None:
        return {}
    train, held_out = prepared.train, prepared.held_out
    sizes = Counter(f"{width}x{height}" for height, width in (each.size for each in train))
    return {
        "index_hash": prepared.index_hash,
        "fingerprints": prepared.fingerprints,
        "shards": data.shards,
        "train": len(train),
        "held_out": len(held_out),
        "sets": {str(k): n for k, n in sorted(Counter(each.set for each in train).items())},
        "buckets": dict(sorted(sizes.items())),
        "batch_size": data.batch_size,
        "seed": data.seed,
        "settings": settings.record(),
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # of a run from before there was such a file
    return value if isinstance(value, dict) else None
