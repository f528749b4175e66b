"""TensorBoard's logger, cut back to the checkpoint when a run goes on from one."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoardRun(TensorBoardLogger):
    """Events in ``tensorboard/`` of the run's folder.

    Args:
        folder: The run's.
    """

    _experiment: Any
    forgets = True
    """Whether ``rewind`` hides pictures of the step itself too, so that they are shown again."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="tensorboard", version="")
        self._latest: tuple[int | None, dict[str, Any]] | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures at a step; those of a step that was saved come twice, and are logged once."""
        if (step, metrics) != self._latest:
            self._latest = (step, dict(metrics))
            super().log_metrics(metrics, step)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Hide what was logged from ``step`` on: the run goes on from there.

        TensorBoard takes this from the first event of a new file (``purge_step``).
        """
        if step:
            if self._experiment is not None:
                self._experiment.close()
            self._kwargs["purge_step"] = step
            self._experiment = None
