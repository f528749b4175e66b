"""How fast a training is and how much memory it takes: what differs from run to run."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer

from elf.callbacks.rows import LateRows
from elf.callbacks.spilling import SpillWatch, spill_watch, timed_event
from elf.memory import GIB
from elf.watching import log_figures


class _Now:
    """Stands for a CUDA event on a CPU, where nothing is late: a point in time."""

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "_Now") -> float:
        return 1e3 * (end.seconds - self.seconds)


class _Idle(NamedTuple):
    """Before a stretch of training the device had nothing to do.

    Attributes:
        since: Where its last work ended; None before the first.
        waited: Seconds that the processor waited for the batch.
        prepared: Seconds that it needed for it then.
    """

    since: Any
    waited: float
    prepared: float

    def until(self, start: Any) -> tuple[float, float]:
        """Return seconds of training, and of them those in which data was waited for.

        The device may have been at work in part of them; and it may have been idle for longer, for
        a validation.
        """
        seconds = self.waited + self.prepared
        if self.since is not None:
            seconds = min(seconds, self.since.elapsed_time(start) / 1e3)
        return seconds, min(max(seconds - self.prepared, 0.0), self.waited)


@dataclass
class _Row:
    """What is measured between two rows.

    Attributes:
        idle: What came before ``start``, if the device was at its end.
        start: Where a stretch of training begins that is not in ``seconds`` yet.
        end: Where the last batch ends.
        seconds: Of earlier stretches.
        delay: Of them, those in which the device waited for data.
    """

    idle: _Idle | None = None
    start: Any = None
    end: Any = None
    seconds: float = 0.0
    delay: float = 0.0
    steps: int = 0
    pictures: int = 0
    tokens: int = 0
    step: int = 0
    peak: int | None = None

    def close(self) -> None:
        """Add a stretch, which the device has done."""
        if self.end is None:
            return
        self.seconds += self.start.elapsed_time(self.end) / 1e3
        if self.idle is not None:
            seconds, delay = self.idle.until(self.start)
            self.seconds += seconds
            self.delay += delay
        self.idle = self.end = None


class SpeedRecorder(LateRows):
    """Logs ``speed/…`` and ``memory/…`` in the rows of ``train/loss``; they go to ``speed.csv``.

    Only the training itself is timed, on a GPU by the GPU: whatever lets it run dry between two
    batches (validation, sample pictures, checkpoints) is not part of it. ``speed/data_wait`` is the
    share in which it had nothing to do for want of data: the CPU is ahead of it, and a wait that
    ends before the GPU is done costs nothing. ``memory/peak_gib`` is the most
    that PyTorch had reserved on the GPU since the last row, of all that is done. Where a driver
    lends a GPU system memory, it is told once when that seems to have happened
    (`elf.training.spilling`).

    It is to stand before the other callbacks, whose work would else be taken for the step's.
    """

    def __init__(self) -> None:
        self._step = 0
        self._event: type[_Now] | Any = _Now
        self._row = _Row()
        self._complete: deque[_Row] = deque()  # but the device may be at work on them
        self._spills: SpillWatch | None = None
        self._waited = 0.0  # so far, of what the loader counts
        self.delay = 0.0
        """Seconds in which the device waited for data, of all rows that are written."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at nothing."""
        self._step = trainer.global_step
        self._row = _Row()
        self._complete.clear()
        self._waited = getattr(trainer.train_dataloader, "waited", 0.0)
        self._spills = spill_watch(pl_module.device)
        self._event = _Now
        if pl_module.device.type == "cuda":
            self._event = timed_event
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Begin a stretch of training where the device has nothing left to do."""
        loader: Any = trainer.train_dataloader
        waited = getattr(loader, "waited", 0.0)
        row, last = self._row, self._row.end or self._row.start
        if last is None or last.query():
            row.close()
            now = time.perf_counter()
            prepared = now - (getattr(loader, "handed", None) or now)
            row.idle = _Idle(last, waited - self._waited, prepared)
            row.start = self._marked()
        self._waited = waited
        if self._spills is not None:
            self._spills.begin()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a batch; each ``log_every_n_steps``-th step completes a row."""
        row = self._row
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        if self._spills is not None:
            self._spills.end(batch, stepped, pl_module)
        row.end = self._marked()
        row.steps += stepped
        if isinstance(batch, dict):
            row.tokens += batch.get("seen", 0)
            row.pictures += len(batch.get("id", ())) if "seen" not in batch else 0
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if stepped and every > 0 and self._step % every == 0:
            row.step = self._step
            if pl_module.device.type == "cuda":
                row.peak = torch.cuda.max_memory_reserved(pl_module.device)
                torch.cuda.reset_peak_memory_stats(pl_module.device)
            self._complete.append(row)
            self._row = _Row(start=row.end)
        self.write_rows(trainer, wait=False)

    def write_rows(self, trainer: Trainer, wait: bool) -> None:
        """Write the rows whose last step the device has done; all of them, if it is waited for."""
        while self._complete:
            row = self._complete[0]
            if wait:
                row.end.synchronize()
            elif not row.end.query():
                return
            self._complete.popleft()
            row.close()
            self.delay += row.delay
            seconds = max(row.seconds, 1e-9)
            figures = {
                "speed/steps_per_s": row.steps / seconds,
                "speed/data_wait": row.delay / seconds,
            }
            for name, count in (("pictures", row.pictures), ("tokens", row.tokens)):
                if count:
                    figures[f"speed/{name}_per_s"] = count * trainer.world_size / seconds
            if row.peak is not None:
                figures["memory/peak_gib"] = row.peak / GIB
            log_figures(trainer, figures, row.step - 1)
            if self._spills is not None:
                self._spills.look()

    def _marked(self) -> Any:
        mark = self._event()
        mark.record()
        return mark
