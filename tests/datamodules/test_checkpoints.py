"""Checkpoints, and SIGTERM and Ctrl-C at any batch: of an optimizer step, and exactly resumed."""

import os
import signal
import threading

import pytest
from lightning.pytorch import Callback

from elf.callbacks import AdapterCheckpoint
from elf.callbacks.run_folder import RewindMetrics
from elf.callbacks.termination import Termination
from elf.loggers import MetricsFile

pytestmark = [
    # lightning 2.6.6 with torch 2.14: a rename inside torch.utils._pytree
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"),
]


class SendSignal(Callback):
    """Sends this process a signal while it is at a batch, counted from the start of the run."""

    def __init__(self, batch, number, moment="train"):
        self.batch, self.number, self.moment = batch, number, moment
        self.seen = 0

    def at(self, moment):
        if moment == self.moment:
            self.seen += 1
            if self.seen == self.batch:
                os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, *_):
        self.at("train")

    def on_validation_batch_start(self, *_):
        self.at("validation")


def undisturbed(kit, make_data, folder, **options):
    module = kit.TinyModule()
    kit.make_trainer(folder, AdapterCheckpoint(1000), enable_checkpointing=True, **options).fit(
        module, make_data()
    )
    return module


def stopped_and_resumed(kit, make_data, folder, sender, **options):
    """Return the module of the second part, and how the first one ended."""
    options["enable_checkpointing"] = True
    trainer = kit.make_trainer(folder, sender, AdapterCheckpoint(1000), **options)
    with pytest.raises(SystemExit) as end:
        trainer.fit(kit.TinyModule(), make_data())
    module = kit.TinyModule()
    kit.make_trainer(folder, AdapterCheckpoint(1000), **options).fit(
        module, make_data(), ckpt_path=folder / "checkpoints" / "last.ckpt", weights_only=True
    )
    return module, end.value.code


def epochs(module):
    """How many epochs Lightning has counted, those of the parts before included."""
    return module.trainer.fit_loop.epoch_progress.state_dict()


CASES = [(1, (1, 2, 5, 7, 8, 9, 15, 16, 17, 20)), (4, (1, 2, 3, 4, 6, 8, 9, 12, 16, 17))]


@pytest.mark.fault(11)
@pytest.mark.parametrize(("accumulation", "batches"), CASES)
def test_a_run_that_is_told_to_end_goes_on_exactly(
    kit, make_data, tmp_path, capsys, accumulation, batches, figures
):
    check_stops(kit, make_data, tmp_path, accumulation, batches, signal.SIGTERM)
    said = capsys.readouterr().out
    for batch in batches:
        # 8 batches an epoch; the last of an epoch steps with what was accumulated
        epochs, within = divmod(batch - 1, 8)
        step = epochs * (8 // accumulation) + within // accumulation + 1
        assert f"elf: SIGTERM: saved at step {step}; go on with --ckpt_path last" in said
    figures(signals=len(batches), ulp=0)


@pytest.mark.fault(11)
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("accumulation", [1, 3, 4])
def test_a_run_that_is_told_to_end_at_any_batch_goes_on_exactly(
    kit, make_data, tmp_path, accumulation, number, figures
):
    check_stops(kit, make_data, tmp_path, accumulation, range(1, 21), number)
    figures(signals=20, ulp=0)


def check_stops(kit, make_data, folder, accumulation, batches, number):
    options = {"max_epochs": 3, "accumulate_grad_batches": accumulation}
    reference = undisturbed(kit, make_data, folder / "whole", **options)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    for batch in batches:
        module, code = stopped_and_resumed(
            kit, make_data, folder / f"parts-{batch}", SendSignal(batch, number), **options
        )
        assert code == 128 + number
        assert 0 < len(module.seen) < len(reference.seen)
        kit.assert_same_run(module, reference)
        assert epochs(module) == epochs(reference)
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "accumulation", [2, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 3))]
)
def test_every_checkpoint_is_of_an_optimizer_step_and_exact(kit, make_data, tmp_path, accumulation):
    """Those at the end of an epoch too, with a validation near it."""
    shards = kit.write_prepared_folder(tmp_path / "shards", ((64, 64, 13),))  # 5 batches an epoch
    data = {"shards": str(shards)}
    options = {"max_epochs": 3, "accumulate_grad_batches": accumulation, "val_check_interval": 4,
               "check_val_every_n_epoch": None, "enable_checkpointing": True}  # fmt: skip
    reference = kit.TinyModule()
    folder = tmp_path / "run"
    kit.make_trainer(folder, AdapterCheckpoint(1, -1), **options).fit(reference, make_data(**data))
    steps = 3 * -(-5 // accumulation)
    for step in range(1, steps):
        module = kit.TinyModule()
        kit.make_trainer(folder, AdapterCheckpoint(1000), **options).fit(
            module, make_data(**data), weights_only=True,
            ckpt_path=folder / "checkpoints" / f"step-{step:06d}.ckpt",
        )  # fmt: skip
        assert len(module.seen) < len(reference.seen)
        kit.assert_same_run(module, reference)
        assert epochs(module) == epochs(reference)
        assert len(module.begun) == (steps - step) // (steps // 3)  # those that were not begun yet


def test_a_step_at_which_a_run_ends_is_logged(kit, make_data, tmp_path):
    """Lightning logs a step after the callbacks at its end."""

    class Logging(kit.TinyModule):
        def training_step(self, *args):
            loss = super().training_step(*args)
            self.log("loss", loss)
            return loss

    def fit(folder, *callbacks, **more):
        kit.make_trainer(
            folder, *callbacks, AdapterCheckpoint(1000), RewindMetrics(), max_epochs=2,
            enable_checkpointing=True, logger=MetricsFile(str(folder)), log_every_n_steps=2,
        ).fit(Logging(), make_data(), **more)  # fmt: skip

    fit(tmp_path / "whole")
    parts = tmp_path / "parts"
    with pytest.raises(SystemExit):
        fit(parts, SendSignal(4, signal.SIGTERM))
    fit(parts, ckpt_path=parts / "checkpoints" / "last.ckpt", weights_only=True)
    mine, theirs = ((tmp_path / name / "metrics.csv").read_text() for name in ("parts", "whole"))
    assert len(theirs.splitlines()) == 1 + 2 * 8 // 2
    assert mine == theirs


@pytest.mark.parametrize("validated", [1, 2])
def test_a_signal_while_validating(kit, make_data, tmp_path, validated):
    options = {"max_epochs": 3, "val_check_interval": 3, "check_val_every_n_epoch": None}
    reference = undisturbed(kit, make_data, tmp_path / "whole", **options)
    sender = SendSignal(validated, signal.SIGINT, "validation")
    module, code = stopped_and_resumed(kit, make_data, tmp_path / "parts", sender, **options)
    assert code == 130
    assert len(module.seen) == len(reference.seen) - 3
    kit.assert_same_run(module, reference)


@pytest.mark.parametrize(
    ("moment", "batch"),
    [
        *(("validation", n) for n in (1, 6)),
        *(("train", n) for n in (3, 4)),
        *(pytest.param("validation", n, marks=pytest.mark.slow) for n in range(2, 6)),
        *(pytest.param("train", n, marks=pytest.mark.slow) for n in (2, 6)),
    ],
)
def test_a_validation_at_which_a_run_ends_is_logged(kit, make_data, tmp_path, moment, batch):
    """Lightning takes it for done when the run goes on, and would log nothing of it then."""

    class Logging(kit.TinyModule):
        def validation_step(self, *args, **kwargs):
            self.log("val/loss", 1.0 * self.global_step, add_dataloader_idx=False, batch_size=1)

    def fit(folder, *callbacks, **more):
        kit.make_trainer(
            folder, *callbacks, AdapterCheckpoint(1000), RewindMetrics(), max_epochs=1,
            enable_checkpointing=True, logger=MetricsFile(str(folder)), val_check_interval=3,
            check_val_every_n_epoch=None,
        ).fit(Logging(), make_data(batch_size=2), **more)  # fmt: skip

    fit(tmp_path / "whole")
    parts = tmp_path / "parts"
    sender = SendSignal(batch, signal.SIGTERM, moment)
    with pytest.raises(SystemExit):
        fit(parts, sender)
    assert sender.seen >= batch
    fit(parts, ckpt_path=parts / "checkpoints" / "last.ckpt", weights_only=True)
    mine, theirs = ((tmp_path / name / "metrics.csv").read_text() for name in ("parts", "whole"))
    assert len(theirs.splitlines()) == 3
    assert mine == theirs


def test_a_signal_before_the_last_step_changes_nothing(kit, make_data, tmp_path):
    reference = undisturbed(kit, make_data, tmp_path / "whole", max_epochs=1, limit_val_batches=0)
    module = kit.TinyModule()
    trainer = kit.make_trainer(
        tmp_path / "signalled", SendSignal(8, signal.SIGTERM), AdapterCheckpoint(),
        max_epochs=1, limit_val_batches=0, enable_checkpointing=True,
    )  # fmt: skip
    trainer.fit(module, make_data())  # it is done all the same
    kit.assert_same_run(module, reference)
    assert (tmp_path / "signalled" / "checkpoints" / "last.ckpt").exists()


def test_a_second_signal_ends_at_once(monkeypatch, capfd):
    """By what the system does by default, for which the handler makes way."""
    killed, send = [], signal.raise_signal
    monkeypatch.setattr(signal, "raise_signal", killed.append)
    before = signal.getsignal(signal.SIGTERM)
    termination = Termination()
    termination.install()
    try:
        send(signal.SIGTERM)
        assert killed == []
        assert "stopping after this step, with a checkpoint" in capfd.readouterr().err
        send(signal.SIGTERM)
        assert killed == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        termination.uninstall()
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_leaves_the_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=Termination().install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
