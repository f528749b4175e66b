"""Figures of a training: loss by timestep, learning rates, data seen, size of the update."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from elf.callbacks.rows import LateRows
from elf.errors import ElfError
from elf.training.adapter_norms import relative_changes, weight_squares
from elf.training.arrivals import Arrivals
from elf.training.seen import Seeing
from elf.watching import log_figures

OF_A_STEP = ("train/loss", "train/accuracy", "train/grad_norm")
"""What the module measures in each step."""


class _Row(NamedTuple):
    """A row: what is known, and the names of what is on its way from the device."""

    step: int
    known: Mapping[str, float]
    names: list[str]


class TrainingRecorder(LateRows):
    """Logs a step's loss and the norm of its gradients, and what these alone do not say.

    ``train/loss_stratum_k`` is the mean error before any weight of the samples since the last row
    whose timestep is in the k-th part of the schedule; ``lr/GROUP`` the learning rate of the step;
    ``data/…`` what was seen of the data; ``adapter/BLOCK`` ‖ΔW‖ / ‖W‖.

    Nothing waits for the device: sums stay on it, and a row is written when its figures have
    arrived, some steps later. The sums are in the checkpoints, so that a run in parts logs what a
    run in one piece does.

    Args:
        strata: Equal parts of the timesteps.
        norms_every_n_steps: Optimizer steps between two measurements of ‖ΔW‖ / ‖W‖, rounded up to
            a logged step; 0 measures it never.
    """

    logs_steps = True
    """Lightning, which waits for the device to log, need not."""

    def __init__(self, strata: int = 8, norms_every_n_steps: int = 50) -> None:
        if strata < 1:
            raise ElfError(f"TrainingRecorder.strata is {strata}; take 1 or more")
        if norms_every_n_steps < 0:
            raise ElfError(
                f"TrainingRecorder.norms_every_n_steps is {norms_every_n_steps}; "
                "take 1 or more, or 0 for never"
            )
        self.strata = strata
        self.norms_every_n_steps = norms_every_n_steps
        self._trainer: Trainer | None = None
        self._step = 0
        self._sums: Tensor | None = None  # (2, K) errors and samples of each stratum
        self._restored: Tensor | None = None
        self._rates: dict[str, float | Tensor] = {}
        self._rows: Arrivals[_Row] = Arrivals()
        self._seeing: Seeing | None = None
        self._squares: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        """The same whatever the arguments: a run may go on with others."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last row, over all processes: each must call this."""
        return {} if self._sums is None else {"sums": self._summed(self._sums).cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the sums of a run that goes on, if it counts the same strata."""
        sums = state_dict.get("sums")
        self._restored = sums if sums is not None and sums.shape[1] == self.strata else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with what was summed up before."""
        self._trainer = trainer
        self._step = trainer.global_step
        # in double precision: a run in parts adds in another order, and is to have the same rows
        dtype = torch.float32 if pl_module.device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, self.strata, dtype=dtype, device=pl_module.device)
        if self._restored is not None and trainer.is_global_zero:  # they are of all processes
            self._sums += self._restored.to(self._sums)
        self._restored = None
        self._rows = Arrivals()
        self._seeing = None
        self._squares = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Note the learning rates of a step that will be logged, before its end moves them on."""
        if self._is_logged(trainer, trainer.global_step + 1):
            self._rates = learning_rates(trainer.optimizers[0])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add up a batch; each ``log_every_n_steps``-th step makes a row."""
        self._add(pl_module, outputs)
        stepped = trainer.global_step != self._step  # else it is within an accumulation
        self._step = trainer.global_step
        if stepped and self._is_logged(trainer, self._step):
            self._make_row(trainer, pl_module)
        self.write_rows(trainer, wait=False)

    def _make_row(self, trainer: Trainer, module: LightningModule) -> None:
        """Send a row's figures on their way, and begin new sums."""
        assert self._sums is not None
        sums = self._summed(self._sums)  # of every process; the first alone logs
        if trainer.is_global_zero:
            metrics = trainer.callback_metrics
            figures: dict[str, float | Tensor] = {"epoch": trainer.current_epoch}
            figures |= {name: metrics[name] for name in OF_A_STEP if name in metrics}
            figures |= {**self._rates, **self._data(trainer), **self._norms(trainer, module)}
            sent = {k: v for k, v in figures.items() if isinstance(v, Tensor) and not v.is_cpu}
            known = {k: float(v) for k, v in figures.items() if k not in sent}
            numbers = [value.to(sums).flatten() for value in sent.values()]
            row = _Row(self._step - 1, known, list(sent))
            self._rows.send(torch.cat([sums.flatten(), *numbers]), row)
        self._sums.zero_()

    def write_rows(self, trainer: Trainer, wait: bool) -> None:
        """Write the rows that have arrived; all of them, if they are waited for."""
        for values, row in self._rows.take(wait):
            numbers = values.tolist()
            figures = dict(zip(row.names, numbers[2 * self.strata :], strict=True))
            pairs = zip(numbers[: self.strata], numbers[self.strata : 2 * self.strata], strict=True)
            strata = {f"train/loss_stratum_{k}": e / n for k, (e, n) in enumerate(pairs) if n}
            log_figures(trainer, {**row.known, **figures, **strata}, row.step)

    def _is_logged(self, trainer: Trainer, step: int) -> bool:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and step % every == 0

    def _add(self, module: LightningModule, outputs: Any) -> None:
        if not isinstance(outputs, dict) or "timesteps" not in outputs or self._sums is None:
            return
        errors, timesteps = outputs["errors"].detach().float(), outputs["timesteps"]
        count = getattr(getattr(module, "denoiser", None), "timesteps", 1000)  # T
        stratum = (timesteps * self.strata / count).long().clamp(0, self.strata - 1)
        member = stratum[:, None] == torch.arange(self.strata, device=stratum.device)  # (B, K)
        # where: an error that is not finite is of its own stratum alone
        self._sums[0] += torch.where(member, errors[:, None], 0.0).sum(0)
        self._sums[1] += member.sum(0)

    def _summed(self, sums: Tensor) -> Tensor:
        if self._trainer is None or self._trainer.world_size == 1:
            return sums
        total = self._trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _data(self, trainer: Trainer) -> dict[str, float | Tensor]:
        """Return what was seen, if the loader says where it stands (``EpochLoader.position``)."""
        at = getattr(trainer.train_dataloader, "position", None)
        if at is None:
            return {}
        if not hasattr(at, "buckets"):  # tokens, whose rows say nothing of pictures
            return {"data/epoch": at.epoch + at.batch / at.length}
        if self._seeing is None:
            examples = trainer.datamodule.prepared.train  # type: ignore[attr-defined]
            sets = [example.set for example in examples]
            self._seeing = Seeing(at.buckets, at.global_batch, at.seed, at.drop, at.repeats, sets)
        seen = self._seeing.at(at.epoch, at.batch)
        figures: dict[str, float | Tensor] = {
            "data/epoch": at.epoch + at.batch / at.length,
            "data/pictures_seen": seen.pictures,
            "data/distinct_pictures": seen.distinct,
            "data/fills": seen.fills,
        }
        if len(seen.by_set) > 1:
            shares = seen.by_set / max(seen.pictures, 1)
            figures |= {f"data/share_of_set_{k}": float(v) for k, v in enumerate(shares)}
        return figures

    def _norms(self, trainer: Trainer, module: nn.Module) -> dict[str, float | Tensor]:
        every = self.norms_every_n_steps
        # the first logged step at or after each multiple
        before = self._step - trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or self._step // every == before // every:
            return {}
        if not self._squares:
            self._squares = weight_squares(module)
        changes = relative_changes(module, self._squares)
        return {f"adapter/{block}": change for block, change in changes.items()}


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float | Tensor]:
    """Return the learning rate of each group of parameters, as ``lr/NAME``.

    Prodigy's groups hold an estimate ``d`` that multiplies the rate: the product is what counts.
    """
    groups = optimizer.param_groups
    names = ["adapter"] if len(groups) == 1 else [f"group_{n}" for n in range(len(groups))]
    return {
        f"lr/{group.get('name', name)}": torch.as_tensor(group["lr"] * group.get("d", 1.0)).clone()
        for name, group in zip(names, groups, strict=True)
    }
