"""Loggers of a run: a CSV file always, TensorBoard or W&B beside it by one line of YAML."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from elf.files import write_atomic

LoggerName = Literal["csv", "tensorboard", "wandb"]


def make_loggers(name: LoggerName, folder: str) -> list[Logger]:
    """Return the loggers of a run whose folder is given; ``metrics.csv`` is always among them.

    W&B runs offline unless an account is set up (``WANDB_API_KEY`` or ``wandb login``);
    ``wandb sync`` uploads an offline run later.
    """
    loggers: list[Logger] = [MetricsFile(folder)]
    if name == "tensorboard":
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    elif name == "wandb":
        os.makedirs(folder, exist_ok=True)  # wandb needs its save_dir to exist
        loggers.append(
            WandbLogger(
                name=Path(folder).name,
                project="elf",
                save_dir=folder,
                offline=not _has_wandb_account(),
            )
        )
    return loggers


def _has_wandb_account() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")


class MetricsFile(Logger):
    """Writes ``metrics.csv`` in the run's folder, one row for each step that logged something.

    Lightning's CSVLogger deletes an existing file and writes each 100 steps; a resumed run would
    lose its rows. Here a row is on disk when ``log_metrics`` returns, and a run that goes on from
    a checkpoint drops just the rows that came after that checkpoint (``rewind``).
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = ["step"]
        self._rows: list[dict[str, str]] = []
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._rows = list(reader)
                self._columns = list(reader.fieldnames or self._columns)

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
        row["step"] = str(step or 0)
        new = [key for key in row if key not in self._columns]
        self._columns += new
        same = bool(self._rows) and self._rows[-1]["step"] == row["step"]
        if same:
            self._rows[-1].update(row)
        else:
            self._rows.append(row)
        if new or same or not self.path.exists():
            write_atomic(self.path, self._table(self._rows, header=True))
        else:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(self._table([row], header=False))

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows of all steps from ``step`` on: the run goes on from there."""
        kept = [row for row in self._rows if int(row["step"]) < step]
        if len(kept) != len(self._rows):
            self._rows = kept
            write_atomic(self.path, self._table(kept, header=True))

    def _table(self, rows: list[dict[str, str]], header: bool) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
