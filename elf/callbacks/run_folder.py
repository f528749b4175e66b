"""Keeps the run's log files in step with its checkpoints."""

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.loggers import MetricsFile


class RewindMetrics(Callback):
    """Drops the rows that an interrupted run logged after the checkpoint it goes on from.

    So ``metrics.csv`` of a run in parts is that of the same run in one piece.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the file at the step at which training goes on."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.rewind(trainer.global_step)
