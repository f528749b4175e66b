"""How fast a training is and how much memory it takes: what differs from run to run."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from elf.callbacks.spilling import SpillWatch, spill_watch
from elf.watching import log_figures

GIB = 1 << 30


class SpeedRecorder(Callback):
    """Logs ``speed/…`` and ``memory/…`` in the rows of ``train/loss``; they go to ``speed.csv``.

    Only the training itself is timed: the wait for a batch, and from there to the step's end.
    Validation, sample pictures and checkpoints are not part of it. ``speed/data_wait`` is the share
    in which a GPU had nothing to do meanwhile: the CPU is ahead of it, and a wait that ends before
    the GPU is done costs nothing. ``memory/peak_gib`` is the most
    that PyTorch had reserved on the GPU since the last row, of all that is done. Where a driver
    lends a GPU system memory, it is told once when that seems to have happened (`elf.spilling`).

    It is to stand before the other callbacks, whose work would else be taken for the step's.
    """

    def __init__(self) -> None:
        self._step = 0
        self._started = 0.0
        self._spills: SpillWatch | None = None
        self._done: Any = None  # an event at the end of the last batch's work
        self._waited = 0.0  # so far, of what the loader counts
        self.delay = 0.0
        """Seconds in which the device waited for data, of the whole run."""
        self._begin()

    def _begin(self) -> None:
        self._busy = self._fetching = 0.0
        self._pictures = self._steps = 0
        self._delay = self.delay

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at nothing."""
        self._step = trainer.global_step
        self._begin()
        self._waited = getattr(trainer.train_dataloader, "waited", 0.0)
        self._spills = spill_watch(pl_module.device)
        if pl_module.device.type == "cuda":
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Note when the batch came, or now if its loader does not say."""
        loader: Any = trainer.train_dataloader
        self._started = getattr(loader, "handed", None) or time.perf_counter()
        waited = getattr(loader, "waited", 0.0)
        self._fetching += waited - self._waited
        if self._done is None or self._done.query():
            self.delay += waited - self._waited
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
        """Add up a batch; log at each ``log_every_n_steps``-th step."""
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        if self._spills is not None:
            self._spills.end(batch, stepped, pl_module)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = stepped and every > 0 and self._step % every == 0
        on_gpu = pl_module.device.type == "cuda"
        if due and on_gpu:
            torch.cuda.synchronize(pl_module.device)  # once a row: what was asked for is done
        elif self._done is not None:
            self._done.record()
        self._busy += time.perf_counter() - self._started
        self._steps += stepped
        self._pictures += len(batch["id"]) if isinstance(batch, dict) and "id" in batch else 0
        if not due:
            return
        if self._spills is not None:
            self._spills.look()
        seconds = max(self._busy + self._fetching, 1e-9)
        figures: dict[str, Any] = {
            "speed/steps_per_s": self._steps / seconds,
            "speed/pictures_per_s": self._pictures * trainer.world_size / seconds,
            "speed/data_wait": (self.delay - self._delay) / seconds,
        }
        if on_gpu:
            peak = torch.cuda.max_memory_reserved(pl_module.device)
            figures["memory/peak_gib"] = peak / GIB
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        log_figures(trainer, figures, self._step - 1)
        self._begin()
