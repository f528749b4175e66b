"""`elf validate`: the validation loss of one checkpoint or of many, measured in one go.

The networks are loaded once and the adapter's weights are put into them one checkpoint after the
other; what the base makes of a picture is measured with the first. All that can be refused is
refused before that.
"""

import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

from elf.callbacks import StepBar
from elf.datamodules import ShardDataModule
from elf.errors import ElfError
from elf.files import explain_disk_errors, write_atomic
from elf.images import write_png
from elf.training.checkpoints import read_checkpoint, weights_hash
from elf.watching.chart import draw
from elf.watching.comparison import Measured, chart, csv_text, table
from elf.watching.tensorboard import TensorBoardRun

CSV, PNG = "validation.csv", "validation.png"

CKPT_PATH = (
    "What to validate: `last` or `all` of the run's folder (trainer.default_root_dir), a .ckpt "
    "file, a pattern of files in quotes ('models/run/checkpoints/*.ckpt'), or several of these, as "
    "a list or with commas between them. In the order of their steps; the same one counts once. "
    "Left out: a new adapter."
)
"""The help of ``--ckpt_path``."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is to be validated.

    Attributes:
        path: Its file; None for an adapter that is new.
        step: Optimizer steps that it was trained.
        weights: Hash of the weights that are evaluated.
        name: What it is called.
    """

    path: Path | None = None
    step: int = 0
    weights: str = ""
    name: str = "none: a new adapter"

    @property
    def identity(self) -> tuple[int, str]:
        """What the same checkpoint has in any file: its step and its weights."""
        return self.step, self.weights


def survey(paths: Iterable[Path], module: Any, folder: Path) -> list[Checkpoint]:
    """Return the checkpoints of some files in the order of their steps, each of them once.

    Files of one step and the same weights are one: ``last.ckpt`` is a copy of the newest numbered
    one but for what only a continuation needs.

    Args:
        paths: The files.
        module: The module that they must fit.
        folder: The run's; of files in its ``checkpoints`` the name is short.

    Raises:
        ElfError: If one of them is damaged, or of another base, adapter or configuration.
    """
    found: dict[tuple[int, str], list[Path]] = {}
    for path in paths:
        saved = read_fitting(path, module)
        files = found.setdefault((saved["global_step"], weights_hash(saved["state_dict"])), [])
        if path not in files:
            files.append(path)
    own = (folder / "checkpoints").resolve()

    def name(path: Path) -> str:
        return path.stem if path.resolve().parent == own else str(path)

    listed = []
    for (step, weights), files in sorted(found.items(), key=lambda item: item[0][0]):
        others = ", ".join(map(name, files[1:]))
        shown = f"{name(files[0])} ({others})" if others else name(files[0])
        listed.append(Checkpoint(files[0], step, weights, shown))
    return listed


def read_fitting(path: Path, module: Any) -> dict[str, Any]:
    """Return what a checkpoint holds; its ``state_dict`` are the weights that are evaluated.

    Raises:
        ElfError: If it is damaged, or does not fit the module.
    """
    saved = read_checkpoint(path)
    try:
        module.on_load_checkpoint(saved)
        saved["global_step"], saved["state_dict"], saved["loops"]["fit_loop"]
    except ElfError as error:
        reason = str(error).partition("; ")[0]
        raise ElfError(
            f"{path}: {reason}; leave it out, or validate it with its own run's config.yaml"
        ) from None
    except KeyError as error:
        raise ElfError(
            f"{path} lacks {error}: it is damaged, or of another version of Elf; leave it out"
        ) from None
    return saved


class EveryCheckpoint(Callback):
    """Has the trainer's validation run for each of some checkpoints, and shows what was found.

    ``validation.csv`` and ``validation.png`` in the run's folder are written anew after each, so
    that what is measured is on disk whatever happens; each of them is whole at any instant.

    Args:
        paths: Files of checkpoints; none for an adapter that is new, of which nothing is written.

    Attributes:
        rows: What is measured.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.rows: list[Measured] = []
        self._paths = list(paths)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at all checkpoints, before the networks are loaded.

        Raises:
            ElfError: If one cannot be validated, or there is nothing to validate on.
        """
        refuse_nothing_to_measure(trainer)
        # those that the first process found: a run that goes on may write others meanwhile
        paths = trainer.strategy.broadcast(self._paths)
        folder = Path(trainer.default_root_dir)
        found = survey(paths, pl_module, folder) if paths else [Checkpoint()]
        trainer.validate_loop = _OneAfterAnother(trainer, found, self)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardRun):
                logger.rewind(1)  # hides the figures of a command before

    def keep(self, trainer: Trainer, checkpoint: Checkpoint) -> None:
        """Keep what the trainer has measured of a checkpoint."""
        metrics = trainer.callback_metrics.items()
        figures = {key: float(value) for key, value in metrics if key.startswith("val")}
        path = "" if checkpoint.path is None else str(checkpoint.path)
        self.rows.append(Measured(checkpoint.step, checkpoint.name, path, figures))
        if path and trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            remedy = "free some space, or give another trainer.default_root_dir"
            with explain_disk_errors(folder, "the figures were not written", remedy):
                write_atomic(folder / CSV, csv_text(self.rows))
                write_png(folder / PNG, draw(chart(self.rows)))

    def tell(self, trainer: Trainer) -> None:
        """Print the table."""
        if trainer.is_global_zero:
            print("\n".join(table(self.rows)))
            if self._paths:
                folder = Path(trainer.default_root_dir)
                print(f"All figures are in {folder / CSV}, the curve is {folder / PNG}")

    def tell_of_end(self, trainer: Trainer, number: int) -> None:
        """Say what there is of a number of checkpoints, when no more will be measured."""
        if trainer.is_global_zero:
            where = f", in {Path(trainer.default_root_dir) / CSV}" if self.rows else ""
            done = f"{len(self.rows)} of {number} checkpoints are measured{where}"
            print(f"\nelf: stopped: {done}", file=sys.stderr)


class _OneAfterAnother(_EvaluationLoop):
    """Lightning's validation, once for each checkpoint, on the batches of the same loaders."""

    def __init__(
        self, trainer: Trainer, checkpoints: Sequence[Checkpoint], shown: EveryCheckpoint
    ) -> None:
        before = trainer.validate_loop
        super().__init__(
            trainer, TrainerFn.VALIDATING, RunningStage.VALIDATING, False, before.inference_mode
        )
        self._data_source = before._data_source  # which Lightning has set by now
        self._told = before.verbose
        self._checkpoints, self._shown = checkpoints, shown

    def setup_data(self) -> None:
        """Ask for the loaders once: others, each time, would have processes of their own."""
        if self._combined_loader is None:
            super().setup_data()

    def run(self) -> list[Any]:
        """Measure them all; what Ctrl-C or SIGTERM ends, ends with a line."""
        outputs: list[Any] = []
        number = len(self._checkpoints)
        bar = self.trainer.progress_bar_callback
        try:
            for place, checkpoint in enumerate(self._checkpoints, 1):
                if isinstance(bar, StepBar) and number > 1:
                    bar.validating = f"checkpoint {place} of {number}"
                load(checkpoint, self.trainer)
                outputs += super().run()
                self._shown.keep(self.trainer, checkpoint)
                if self.trainer.received_sigterm and place < number:
                    self._shown.tell_of_end(self.trainer, number)
                    raise SystemExit(128 + signal.SIGTERM)
        except KeyboardInterrupt:
            self._shown.tell_of_end(self.trainer, number)
            raise SystemExit(128 + signal.SIGINT) from None  # Lightning would add a line of its own
        if self._told:
            self._shown.tell(self.trainer)
        return outputs


def load(checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Put a checkpoint's weights into the trainer's module, and the trainer at its step.

    Raises:
        ElfError: If the file is no longer what it was.
    """
    if checkpoint.path is None:
        return
    module = trainer.lightning_module
    saved = read_fitting(checkpoint.path, module)
    if (saved["global_step"], weights_hash(saved["state_dict"])) != checkpoint.identity:
        raise ElfError(
            f"{checkpoint.path} has changed since it was looked at; validate it when its run has "
            "ended"
        )
    module.load_state_dict(saved["state_dict"])
    trainer.fit_loop.load_state_dict(saved["loops"]["fit_loop"])  # the step that loggers are told


def refuse_nothing_to_measure(trainer: Trainer) -> None:
    """Refuse to validate on nothing.

    Raises:
        ElfError: If no picture is held out, or none of them would be looked at.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, ShardDataModule) and data.prepared and not data.prepared.held_out:
        raise ElfError(
            f"data.held_out {data.settings.held_out:g} leaves no picture to validate on: set it "
            "higher (0.05 is usual), and run `elf prepare` with that config again"
        )
    if trainer.limit_val_batches == 0:
        raise ElfError("trainer.limit_val_batches is 0, so nothing is validated; leave it out")
