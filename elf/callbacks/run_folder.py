"""The run's folder: one process writes it, and its log files keep in step with its checkpoints."""

from lightning.pytorch import Callback, LightningModule, Trainer

from elf.errors import ElfError
from elf.files import FolderLock
from elf.loggers import MetricsFile
from elf.watching.tensorboard import TensorBoardRun


class RunLock(Callback):
    """Keeps a second run out of the folder, which holds no checkpoint yet that would say so.

    Args:
        name: Of the lock's file: who writes other files takes another lock.
    """

    def __init__(self, name: str = ".lock") -> None:
        self._name = name
        self._lock: FolderLock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lock the folder, before anything is written there.

        Raises:
            ElfError: If another run has it, or nothing can be written there.
        """
        if not trainer.is_global_zero:
            return
        folder = trainer.default_root_dir
        try:
            self._lock = FolderLock(folder, self._name)
        except OSError as error:
            raise ElfError(
                f"trainer.default_root_dir: {folder} cannot be written "
                f"({error.strerror or error}); give another folder"
            ) from None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release it."""
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Release it; Lightning tears nothing down after an error."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class RewindMetrics(Callback):
    """Drops the rows that an interrupted run logged after the checkpoint it goes on from.

    So ``metrics.csv`` of a run in parts is that of the same run in one piece, and TensorBoard shows
    no step twice. W&B cannot take anything back: a killed run's last rows stay there.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the files at the step at which training goes on, before anything else is logged."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile | TensorBoardRun):
                logger.rewind(trainer.global_step)
