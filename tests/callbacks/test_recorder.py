"""Figures of a training, in real runs: right, the same for a run in parts, and cheap."""

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from elf import trainer
from elf.callbacks import SpeedRecorder, TrainingRecorder, with_watching
from elf.callbacks.recorder import learning_rates
from elf.errors import ElfError
from elf.training.arrivals import Arrivals
from elf.watching import log_figures

CHECKPOINT = "{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}"
RECORDER = "{class_path: TrainingRecorder, init_args: {strata: 4, norms_every_n_steps: 4}}"


def fit(training: list[str], folder: Path, *more: str) -> Any:
    return trainer.run(
        "fit",
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            f"--trainer.callbacks=[{CHECKPOINT},{RECORDER}]",
            "--trainer.log_every_n_steps=3",
            "--trainer.limit_val_batches=0",
            *more,
        ],
    )


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_in_parts_records_what_one_piece_does(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two rows; the strata are those of the errors that the steps returned."""
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    add = TrainingRecorder._add

    def spy(self: TrainingRecorder, module: Any, outputs: Any) -> None:
        steps.append((outputs["errors"].clone(), outputs["timesteps"].clone()))
        add(self, module, outputs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRecorder, "_add", spy)
        fit(training, tmp_path / "whole", "--trainer.max_steps=9")
    fit(training, tmp_path / "parts", "--trainer.max_steps=4")
    fit(training, tmp_path / "parts", "--trainer.max_steps=9", "--ckpt_path=last")
    whole = tmp_path / "whole" / "metrics.csv"
    assert whole.read_text() == (tmp_path / "parts" / "metrics.csv").read_text()

    found = rows(whole)
    assert [row["step"] for row in found] == ["2", "5", "8"]
    for number, row in enumerate(found):
        part = steps[3 * number : 3 * number + 3]
        errors = torch.cat([errors for errors, _ in part])
        strata = torch.cat([timesteps for _, timesteps in part]) // 250
        for k in range(4):
            logged = row[f"train/loss_stratum_{k}"]
            mine = errors[strata == k]
            assert bool(logged) == bool(len(mine))
            if logged:
                assert float(logged) == pytest.approx(float(mine.mean()), rel=1e-5)
        assert float(row["lr/unet"]) == pytest.approx(2e-3)
        assert row["data/pictures_seen"] == str(4 * 3 * (number + 1))
    assert [bool(row["adapter/all"]) for row in found] == [False, True, True]
    assert 0 < float(found[1]["adapter/all"]) < float(found[2]["adapter/all"])
    assert float(found[2]["data/epoch"]) > 1
    assert not any(name.startswith(("speed/", "memory/")) for name in found[0])
    speed = rows(tmp_path / "parts" / "speed.csv")
    assert [row["step"] for row in speed] == ["2", "5", "8"]
    assert all(float(row["speed/pictures_per_s"]) > 0 for row in speed)
    assert all(0 <= float(row["speed/data_wait"]) < 1 for row in speed)


class Device:
    """A GPU and a processor that asks it for work, on one clock; milliseconds."""

    def __init__(self) -> None:
        self.now = 0.0  # the processor's time
        self.end = 0.0  # when the device has done what it was asked for

    def work(self, milliseconds: float) -> None:
        self.end = max(self.end, self.now) + milliseconds

    def event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device

    def record(self) -> None:
        self.at = max(self._device.end, self._device.now)

    def query(self) -> bool:
        return self._device.now >= self.at

    def synchronize(self) -> None:
        self._device.now = max(self._device.now, self.at)

    def elapsed_time(self, end: "Event") -> float:
        assert self.query() and end.query()
        return end.at - self.at


class Training:
    """Batches as Lightning tells callbacks of them; a row is of two steps."""

    def __init__(self) -> None:
        self.device, self.rows = Device(), list[dict[str, float]]()

        def log_metrics(row: dict[str, float], step: int) -> None:
            self.rows.append({name.split("/")[1]: round(x, 6) for name, x in row.items()})
            self.rows[-1]["step"] = step

        logger = SimpleNamespace(log_metrics=log_metrics, save=lambda: None)
        self.loader = SimpleNamespace(waited=0.0)
        self.trainer: Any = SimpleNamespace(
            train_dataloader=self.loader, global_step=0, log_every_n_steps=2, world_size=1,
            is_global_zero=True, loggers=[logger],
        )  # fmt: skip
        self.recorder, self.module = SpeedRecorder(), LightningModule()
        self.recorder.on_train_start(self.trainer, self.module)
        self.recorder._event = self.device.event

    def batch(self, work: float, waited: float = 0.0) -> None:
        """Wait so many seconds for a batch, and ask the device for so many of work."""
        self.device.now += 1e3 * waited
        self.loader.waited += waited
        self.recorder.on_train_batch_start(self.trainer, self.module)
        self.device.work(1e3 * work)
        self.trainer.global_step += 1
        self.recorder.on_train_batch_end(self.trainer, self.module, {}, {"id": ["a", "b"]}, 0)

    def end(self) -> None:
        self.recorder.on_train_end(self.trainer, self.module)


def test_a_wait_that_ends_before_the_gpu_is_done_delays_nothing() -> None:
    training = Training()
    training.batch(3)
    training.batch(1, waited=2)
    assert training.rows == [], "the device is at work on them"
    training.batch(1, waited=2)  # just as long as it was at work
    training.batch(1)
    training.end()
    assert training.device.now == 6000, "it was waited for"
    figures = {"steps_per_s": 0.5, "pictures_per_s": 1, "data_wait": 0}
    assert training.rows[0] == {**figures, "step": 1}
    assert training.rows[1] == {"steps_per_s": 1, "pictures_per_s": 2, "data_wait": 0, "step": 3}
    assert training.recorder.delay == 0


def test_a_wait_counts_from_where_the_gpu_has_nothing_to_do() -> None:
    training = Training()
    training.batch(1)
    training.batch(1, waited=1.5)
    training.end()
    (row,) = training.rows
    assert row["steps_per_s"] == round(2 / 2.5, 6)
    assert row["data_wait"] == round(0.5 / 2.5, 6)
    assert training.recorder.delay == 0.5


def test_what_is_done_between_two_batches_is_not_the_trainings() -> None:
    """A validation lets the device come to its end; a short look into a file does not."""
    training = Training()
    training.batch(1)
    training.device.now += 900  # the next batch comes while it is at work
    training.batch(1)
    training.recorder.on_validation_start(training.trainer, training.module)
    assert [row["steps_per_s"] for row in training.rows] == [1]
    training.device.work(60_000)
    training.device.now = training.device.end
    training.batch(0.5, waited=0.25)
    training.batch(0.5)
    training.end()
    assert training.rows[1]["steps_per_s"] == 1.6
    assert training.rows[1]["data_wait"] == 0.2


def test_no_metric_of_a_step_is_for_the_bar(training: list[str], tmp_path: Path) -> None:
    """Lightning looks at these after each batch, and so waits for the device."""
    seen = set[str]()

    class Looking(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
            results: Any = trainer._results
            seen.update(item.meta.name for item in results.values() if item.meta.prog_bar)
            assert any(item.meta.name == "train/loss" for item in results.values())

    class Watched(trainer.ElfCLI):
        def instantiate_trainer(self, **options: Any) -> Trainer:
            made = super().instantiate_trainer(**options)
            made.callbacks.append(Looking())  # type: ignore[attr-defined]
            return made

    more = [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=2"]
    bar = "--trainer.enable_progress_bar=true"
    with trainer.one_line([*training, *more, bar]):
        Watched(["fit", *training, *more, bar, "--trainer.limit_val_batches=0"])
    assert not seen


class Own(Callback):
    """A user's callback, which logs at once."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        log_figures(trainer, {"own/figure": trainer.global_step}, trainer.global_step - 1)


@pytest.mark.slow
def test_rows_that_come_late_are_those_that_come_at_once(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, with figures that are there at once; also within a validation's steps."""
    make = trainer.ElfCLI.instantiate_trainer

    def with_own(self: trainer.ElfCLI, **options: Any) -> Trainer:
        made = make(self, **options)
        made.callbacks.append(Own())  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(trainer.ElfCLI, "instantiate_trainer", with_own)
    more = ["--trainer.max_steps=7", "--trainer.log_every_n_steps=1",
            "--trainer.limit_val_batches=1", "--trainer.val_check_interval=3"]  # fmt: skip
    fit(training, tmp_path / "at once", *more)
    take = Arrivals.take

    def late(self: Arrivals[Any], wait: bool = False) -> Iterator[Any]:
        kept = [] if wait else [self._sent.pop() for _ in range(min(2, len(self._sent)))]
        yield from take(self, wait)
        self._sent.extend(reversed(kept))

    monkeypatch.setattr(Arrivals, "take", late)
    fit(training, tmp_path / "late", *more)
    at_once, others = (rows(tmp_path / name / "metrics.csv") for name in ("at once", "late"))
    assert [row["step"] for row in at_once] == [str(step) for step in range(7)]
    assert all(row["own/figure"] and row["train/loss"] for row in at_once)
    assert [dict(sorted(row.items())) for row in at_once] == [
        dict(sorted(row.items())) for row in others
    ]


def test_an_error_is_not_hidden_by_a_row_that_cannot_be_written() -> None:
    training = Training()
    training.batch(1)
    training.batch(1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    training.trainer.loggers[0].log_metrics = full
    training.recorder.on_exception(training.trainer, training.module, ValueError())
    with pytest.raises(OSError, match="the disk is full"):
        training.batch(1)
        training.batch(1)
        training.end()


def test_nothing_waits_for_the_device_between_two_rows() -> None:
    """On the meta device a tensor has no values: to ask for one would raise."""
    recorder = TrainingRecorder(strata=4)
    recorder._sums = torch.zeros(2, 4, device="meta")
    module: Any = torch.nn.Module()
    outputs = {
        "errors": torch.zeros(3, device="meta"),
        "timesteps": torch.zeros(3, dtype=torch.int64, device="meta"),
    }
    recorder._add(module, outputs)
    assert recorder._sums.shape == (2, 4)


def test_an_error_that_is_not_finite_stays_in_its_stratum() -> None:
    recorder = TrainingRecorder(strata=2)
    recorder._sums = torch.zeros(2, 2)
    outputs = {
        "errors": torch.tensor([float("nan"), 2.0, 4.0]),
        "timesteps": torch.tensor([0, 999, 500]),
    }
    module: Any = torch.nn.Module()
    recorder._add(module, outputs)
    assert recorder._sums[:, 1].tolist() == [6.0, 2.0]
    assert recorder._sums[0, 0].isnan() and recorder._sums[1, 0] == 1


def test_learning_rates_have_their_groups_names() -> None:
    def optimizer(*names: str | None) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1 * (n + 1)}
            | ({"name": name} if name else {})
            for n, name in enumerate(names)
        ]
        return torch.optim.SGD(groups)

    def rates(*names: str | None) -> dict[str, float]:
        found = learning_rates(optimizer(*names))
        return {key: round(float(value), 6) for key, value in found.items()}

    assert rates(None) == {"lr/adapter": 0.1}
    assert rates("unet", "text_encoder") == {"lr/unet": 0.1, "lr/text_encoder": 0.2}
    assert rates(None, None) == {"lr/group_0": 0.1, "lr/group_1": 0.2}
    prodigy = optimizer("unet")
    prodigy.param_groups[0] |= {"lr": 1.0, "d": 3e-4}
    assert float(learning_rates(prodigy)["lr/unet"]) == pytest.approx(3e-4)


def test_what_the_configuration_has_is_not_added_again() -> None:
    own = TrainingRecorder(strata=3)
    made = with_watching([own])
    assert [type(each) for each in made].count(TrainingRecorder) == 1 and own in made
    assert isinstance(made[0], SpeedRecorder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingRecorder(0), "TrainingRecorder.strata is 0; take 1 or more"),
        (
            lambda: TrainingRecorder(norms_every_n_steps=-1),
            "TrainingRecorder.norms_every_n_steps is -1; take 1 or more, or 0 for never",
        ),
    ],
)
def test_arguments_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(ElfError) as error:
        make()
    assert message in str(error.value)
