"""W&B's logger, which no trouble of W&B's can turn into trouble of the training's."""

import contextlib
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from elf.errors import ElfWarning, first_line
from elf.files import write_atomic
from elf.platforms import netrc_file

ID_FILE = "wandb-id.txt"
STEP = "trainer/global_step"
SUMMARIES = {
    "train/loss": "min,last",
    "val/*": "min,last",
    "val_trained/*": "min,last",
    "val_unrelated/*": "min,last",
    "train/grad_norm": "max,last",
    "memory/peak_gib": "max",
    "speed/*": "mean,last",
}
"""What W&B keeps of a curve beside it, for its table of runs."""


class WandbRun(WandbLogger):
    """A run of W&B in the run's folder, gone on with under the same id.

    Whatever W&B raises becomes a warning, once for each kind of trouble: a network that is down
    costs a picture, not a night of training. If it cannot be reached at the start, the run is
    recorded offline; ``wandb sync`` uploads it later.

    Args:
        folder: The run's.
        goes_on: Whether the run goes on from a checkpoint: W&B's then does too.
        name: What W&B calls the run; the folder's name if not given.
    """

    _experiment: Any

    def __init__(self, folder: str, goes_on: bool = False, name: str | None = None) -> None:
        self._folder = Path(folder)
        self._goes_on = goes_on
        self._troubles: set[str] = set()
        self._latest: tuple[int | None, dict[str, Any]] | None = None
        name = name or self._folder.absolute().name
        super().__init__(name=name, project=project(), save_dir=folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's own run, begun at first use."""
        if self._experiment is None:
            self._experiment = self._begin()
        return self._experiment

    def _begin(self) -> Any:
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere if it is missing
        mode = os.environ.get("WANDB_MODE") or ("online" if has_account() else "offline")
        for way in dict.fromkeys((mode, "offline")):
            with self.tolerated(f"cannot begin {way}"):
                # Not through Lightning: it sets WANDB_MODE for all that follows in the process.
                run = wandb.init(
                    name=self._name,
                    project=self._project,
                    dir=str(self._folder),
                    id=run_id(self._folder, self._goes_on),
                    mode=way,  # type: ignore[arg-type]
                    resume="allow" if way == "online" else None,  # offline it only warns
                    reinit="create_new",
                    config={},
                )
                run.define_metric(STEP)
                run.define_metric("*", step_metric=STEP, step_sync=True)
                for name, kept in SUMMARIES.items():
                    run.define_metric(name, step_metric=STEP, summary=kept)
                return run
        return wandb.init(mode="disabled")

    @contextlib.contextmanager
    def tolerated(self, what: str) -> Iterator[None]:
        """Turn an error into a warning; each kind is told once."""
        try:
            yield
        except Exception as error:
            if what not in self._troubles:
                self._troubles.add(what)
                warnings.warn(
                    f"W&B: {what} ({first_line(error)}); training goes on, and all is in the "
                    "run's folder",
                    ElfWarning,
                    stacklevel=2,
                )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures at a step; those of a step that was saved come twice, and are logged once."""
        if (step, metrics) == self._latest:
            return
        self._latest = (step, dict(metrics))
        with self.tolerated("figures are missing"):
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Do nothing: ``log_config`` gives it the whole configuration."""

    @rank_zero_only
    def log_settings(self, config: Mapping[str, Any]) -> None:
        """Show the configuration; a run that goes on may have changed some of it."""
        with self.tolerated("the configuration is missing"):
            self.experiment.config.update(dict(config), allow_val_change=True)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End W&B's run: else the next one of this process would be added to it."""
        if self._experiment is not None:
            with self.tolerated("the run's end is missing"):
                self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None
            self._goes_on = True


def project() -> str:
    """Return the project that runs go into."""
    return os.environ.get("WANDB_PROJECT") or "elf"


def has_account() -> bool:
    """Whether an account is set up: by ``WANDB_API_KEY``, or by ``wandb login``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = netrc_file(os.environ)
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text("utf-8", errors="replace")


def run_id(folder: Path, goes_on: bool) -> str:
    """Return the id of a folder's run; a new one, written there, unless the run goes on."""
    path = folder / ID_FILE
    if goes_on and path.is_file() and (known := path.read_text("utf-8").strip()):
        return known
    new = secrets.token_hex(4)  # not from the generators that training draws from
    write_atomic(path, new + "\n")
    return new
