"""Figures of a training: loss by timestep, learning rates, data seen, size of the update."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from elf.adapter_norms import relative_changes, weight_squares
from elf.errors import ElfError
from elf.seen import Seeing
from elf.watching import log_figures


class TrainingRecorder(Callback):
    """Logs what the loss alone does not say, in the rows of ``train/loss``.

    ``train/loss_stratum_k`` is the mean error before any weight of the samples since the last row
    whose timestep is in the k-th part of the schedule; ``lr/GROUP`` the learning rate of the step;
    ``data/…`` what was seen of the data; ``adapter/BLOCK`` ‖ΔW‖ / ‖W‖.

    Between two rows nothing waits for the device: sums stay on it. They are in the checkpoints, so
    that a run in parts logs what a run in one piece does.

    Args:
        strata: Equal parts of the timesteps.
        norms_every_n_steps: Optimizer steps between two measurements of ‖ΔW‖ / ‖W‖, rounded up to
            a logged step; 0 measures it never.
    """

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
        """Add up a batch; log at each ``log_every_n_steps``-th step."""
        self._add(pl_module, outputs)
        if trainer.global_step == self._step:
            return  # within an accumulation
        self._step = trainer.global_step
        if self._is_logged(trainer, self._step):
            # every process sums up the strata; the first alone logs
            figures = {**self._strata(), **self._rates}
            if trainer.is_global_zero:
                figures |= {**self._data(trainer), **self._norms(trainer, pl_module)}
            log_figures(trainer, figures, self._step - 1)

    def _is_logged(self, trainer: Trainer, step: int) -> bool:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and step % every == 0

    def _add(self, module: LightningModule, outputs: Any) -> None:
        if not isinstance(outputs, dict) or "errors" not in outputs or self._sums is None:
            return
        errors, timesteps = outputs["errors"].detach().float(), outputs["timesteps"]
        count = getattr(getattr(module, "denoiser", None), "timesteps", 1000)  # T
        stratum = (timesteps * self.strata / count).long().clamp(0, self.strata - 1)
        member = stratum[:, None] == torch.arange(self.strata, device=stratum.device)  # (B, K)
        # where: an error that is not finite is of its own stratum alone
        self._sums[0] += torch.where(member, errors[:, None], 0.0).sum(0)
        self._sums[1] += member.sum(0)

    def _strata(self) -> dict[str, float | Tensor]:
        assert self._sums is not None
        errors, samples = self._summed(self._sums).tolist()
        self._sums.zero_()
        pairs = enumerate(zip(errors, samples, strict=True))
        return {f"train/loss_stratum_{k}": e / n for k, (e, n) in pairs if n}

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
