"""Loggers of a run: a CSV file always, TensorBoard or W&B beside it by one line of YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from elf.watching.steptable import StepTable
from elf.watching.tensorboard import TensorBoardRun
from elf.watching.wandb_run import WandbRun

LoggerName = Literal["csv", "tensorboard", "wandb"]

OF_THE_CLOCK = ("speed/", "memory/")
"""Figures that no second run repeats: in ``speed.csv``, so that ``metrics.csv`` is the same."""


def make_loggers(name: LoggerName, folder: str, goes_on: bool = False) -> list[Logger]:
    """Return the loggers of a run whose folder is given; ``metrics.csv`` is always among them.

    W&B runs offline unless an account is set up (``WANDB_API_KEY`` or ``wandb login``);
    ``wandb sync`` uploads an offline run later.

    Args:
        name: What is wanted beside the CSV files.
        folder: The run's.
        goes_on: Whether the run goes on from a checkpoint.
    """
    loggers: list[Logger] = [MetricsFile(folder)]
    if name == "tensorboard":
        loggers.append(TensorBoardRun(folder))
    elif name == "wandb":
        loggers.append(WandbRun(folder, goes_on))
    return loggers


def validation_loggers(name: LoggerName, folder: str) -> list[Logger]:
    """Return the loggers of `elf validate`: TensorBoard or W&B if wanted, else none.

    They are not the training's, whose curves would be drawn twice: TensorBoard shows a run
    ``validation`` within the other, W&B one that is named ``{run} validation``. ``validation.csv``
    is written by the command itself.

    Args:
        name: What is wanted.
        folder: The training's.
    """
    place = Path(folder) / "validation"
    if name == "tensorboard":
        return [TensorBoardRun(str(place))]
    if name == "wandb":
        return [WandbRun(str(place), name=f"{Path(folder).absolute().name} validation")]
    return []


class MetricsFile(Logger):
    """Writes ``metrics.csv`` in the run's folder, one row for each step that logged something.

    Lightning's CSVLogger deletes an existing file and writes each 100 steps; a resumed run would
    lose its rows. Here a row is on disk when ``log_metrics`` returns, and a run that goes on from
    a checkpoint drops just the rows that came after that checkpoint (``rewind``).

    A run in parts has the ``metrics.csv`` of the run in one piece. What a clock or a memory meter
    says differs each time, and goes into ``speed.csv``.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._metrics = StepTable(self.path)
        self._speed = StepTable(Path(folder) / "speed.csv")

    @property
    def name(self) -> str:
        """The logger's name for Lightning: none, the run's folder is named already."""
        return ""

    @property
    def version(self) -> str:
        """The logger's version for Lightning: none."""
        return ""

    @property
    def experiment(self) -> Any:
        """The logger itself."""
        return self

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: ``config.yaml`` in the same folder holds them all."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one row; metrics of the step that was written last are merged into its row."""
        row = {key: f"{float(value):.9g}" for key, value in metrics.items()}
        speed = {key: value for key, value in row.items() if key.startswith(OF_THE_CLOCK)}
        rest = {key: value for key, value in row.items() if key not in speed}
        for table, part in ((self._metrics, rest), (self._speed, speed)):
            if part:
                table.add({**part, "step": str(step or 0)})

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows of all steps from ``step`` on: the run goes on from there."""
        self._metrics.rewind(step)
        self._speed.rewind(step)
