"""A captured step is the eager step: the same losses, option by option, and it was captured.

Run with `pytest -m gpu`. Each row trains twice from the same seed, with graphs and without.
"""

import csv
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from elf import trainer
from elf.callbacks import progress
from elf.training.checkpoints import read_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STEPS = 200


def optimizer(path: str, *arguments: str) -> list[str]:
    given = [f"--model.optimizer.init_args.{argument}" for argument in arguments]
    return [f"--model.optimizer.class_path={path}", *given]


FUSED = "--model.optimizer.init_args.fused=true"
VALIDATED = ["--trainer.val_check_interval=7", "--trainer.limit_val_batches=1.0"]
OPTIONS: dict[str, list[str]] = {
    "plain": [],
    "accumulation": ["--trainer.accumulate_grad_batches=3"],
    "clipping": ["--trainer.gradient_clip_val=0.01"],
    "clipping by value": [
        "--trainer.gradient_clip_val=0.001",
        "--trainer.gradient_clip_algorithm=value",
    ],
    "ema, validation": ["--model.ema.decay=0.9", *VALIDATED],
    "prior preservation": ["--data.prior_preservation=0.33"],
    "checkpointing": ["--model.gradient_checkpointing=true", "--model.adapter.dropout=0"],
    "checkpointing of some blocks": [
        "--model.gradient_checkpointing=[up_blocks.1, '*.attentions.0']",
        "--model.adapter.dropout=0",
    ],
    "dora, ema, validation": ["--model.adapter.kind=dora", "--model.ema.decay=0.9", *VALIDATED],
    "nf4": ["--model.quantization=nf4"],
    "int8, dora": ["--model.quantization=int8", "--model.adapter.kind=dora"],
    "dora, input axis": ["--model.adapter.kind=dora", "--model.adapter.axis=input"],
    "huber, min-snr, noise offset": [
        "--model.objective.error=huber",
        "--model.objective.weighting=min_snr",
        "--model.objective.noise_offset=0.1",
    ],
    "schedule": ["--model.schedule.shape=cosine", "--model.schedule.warmup=0.1"],
    "text encoder": ["--model.adapter.text_targets=attention", "--data.text_states=live"],
    "not captured: prodigy": optimizer("prodigyopt.Prodigy", "lr=1.0"),
    "not captured: schedule-free": optimizer("schedulefree.AdamWScheduleFree", "lr=2e-3"),
    "not captured: 8 bit": optimizer("bitsandbytes.optim.AdamW8bit", "lr=2e-3"),
    "ddp": ["--trainer.strategy=ddp"],
}


class Fit:
    """A run, and what its steps were."""

    def __init__(
        self, folder: Path, arguments: list[str], steps: int = STEPS, rows: int = 1
    ) -> None:
        cli = trainer.run(
            "fit",
            [
                "--trainer.limit_val_batches=0",
                *arguments,
                f"--trainer.default_root_dir={folder}",
                "--trainer.accelerator=cuda",
                "--trainer.devices=1",
                f"--trainer.max_steps={steps}",
                "--trainer.num_sanity_val_steps=0",
                f"--trainer.log_every_n_steps={rows}",
                "--model.validation_strata=2",
            ],
        )
        stepper = cli.model.stepper
        self.passes, self.update = stepper.passes, stepper.update
        self.state = read_checkpoint(folder / "checkpoints" / "last.ckpt")
        with (folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        self.losses = torch.tensor(self._column(rows, "train/loss"))
        self.norms = torch.tensor(self._column(rows, "train/grad_norm"))

    @staticmethod
    def _column(rows: list[dict[str, str]], name: str) -> list[float]:
        return [float(row[name]) for row in rows if row[name]]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean difference as a share of the mean."""
    return float((one - other).abs().mean() / other.abs().mean())


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("name", OPTIONS)
def test_losses_are_those_of_the_eager_step(
    name: str, precision: str, training: list[str], labelled: Path, tmp_path: Path
) -> None:
    arguments = [*training, *OPTIONS[name], f"--trainer.precision={precision}"]
    arguments += [] if "not captured" in name else [FUSED]
    # Attention's backward pass in float32 else sums up as it comes; and Prodigy divides sums of
    # products that are mostly rounding at first, which makes much of the least difference.
    if precision == "32-true" or "prodigy" in name:
        arguments.append("--trainer.deterministic=true")
    if name == "text encoder":
        arguments.append(f"--data.shards={labelled / 'shards-live'}")
        trainer.prepare(arguments)
    steps = 40 if precision == "32-true" else STEPS
    accumulation = 3 if name == "accumulation" else 1
    graphs = Fit(tmp_path / "graphs", arguments, steps)
    eager = Fit(tmp_path / "eager", [*arguments, "--model.cuda_graphs=false"], steps)
    assert graphs.passes.eager == 0, "a step was not captured"
    assert graphs.passes.replays == steps * accumulation
    assert graphs.passes.captures >= 3, "buckets change from step to step"
    assert graphs.update.replays == (0 if "not captured" in name else steps)
    assert eager.passes.replays == eager.update.replays == 0
    assert len(graphs.losses) == len(eager.losses) == steps
    close = {"32-true": 1e-6, "16-mixed": 1e-2, "bf16-mixed": 3e-2}[precision]
    print(name, precision, difference(graphs.losses, eager.losses))
    assert difference(graphs.losses[:5], eager.losses[:5]) < close
    assert difference(graphs.losses, eager.losses) < close


def test_masked_losses_are_those_of_the_eager_step(
    training: list[str], labelled: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(labelled / "pictures", pictures)
    for picture in list(pictures.iterdir()):
        with Image.open(picture) as image:
            mask = Image.new("L", image.size)
            mask.paste(255, (0, 0, image.width // 2, image.height))
            mask.save(picture.with_suffix(".mask.png"))
    arguments = [
        *training,
        f"--data.pictures={pictures}",
        f"--data.shards={tmp_path / 'shards'}",
        "--model.objective.masked=true",
        "--trainer.deterministic=true",
        FUSED,
    ]
    trainer.prepare(arguments)
    graphs = Fit(tmp_path / "graphs", arguments, 40)
    eager = Fit(tmp_path / "eager", [*arguments, "--model.cuda_graphs=false"], 40)
    assert (graphs.passes.eager, graphs.passes.replays, graphs.update.replays) == (0, 40, 40)
    print("masked", difference(graphs.losses, eager.losses))
    assert difference(graphs.losses, eager.losses) < 1e-6


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_run_in_two_parts_is_one_in_one(
    precision: str, training: list[str], tmp_path: Path
) -> None:
    """Dropout, scaler, schedule and average go on, within an epoch and within its graphs."""
    arguments = [
        *training,
        f"--trainer.precision={precision}",
        "--trainer.deterministic=true",
        FUSED,
        "--model.adapter.dropout=0.2",
        "--model.schedule.shape=cosine",
        "--model.ema.decay=0.9",
        "--trainer.accumulate_grad_batches=2",
    ]
    # the schedule spans the run: its whole length is named
    length = ["--model.schedule.total_steps=20"]
    whole = Fit(tmp_path / "whole", arguments, 20)
    Fit(tmp_path / "parts", [*arguments, *length], 9)
    parts = Fit(tmp_path / "parts", [*arguments, "--ckpt_path=last"], 20)
    for key, tensor in whole.state["state_dict"].items():
        assert torch.equal(parts.state["state_dict"][key], tensor), key
    assert torch.equal(parts.losses, whole.losses)


class NoWaiting(Callback):
    """Makes whatever waits for the device an error, in steps whose graphs are there."""

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        self._context, self._stack = context, ExitStack()

    def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == 40:
            self._stack.enter_context(self._context())
        elif trainer.global_step == 60:
            self._stack.close()

    def on_exception(self, *_: Any, **__: Any) -> None:
        self._stack.close()


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_no_step_waits_for_the_device(
    precision: str,
    training: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waiting_is_an_error: Callable[[], AbstractContextManager[None]],
) -> None:
    """Nor do the rows of the log, one with the adapter's norms, nor the bar."""
    make = trainer.ElfCLI.instantiate_trainer

    def with_callback(self: trainer.ElfCLI, **options: Any) -> Any:
        made = make(self, **options)
        made.callbacks.append(NoWaiting(waiting_is_an_error))
        return made

    monkeypatch.setattr(trainer.ElfCLI, "instantiate_trainer", with_callback)
    arguments = [
        *training,
        f"--trainer.precision={precision}",
        FUSED,
        "--model.ema.decay=0.9",
        "--trainer.gradient_clip_val=1",
        "--trainer.enable_progress_bar=true",
    ]
    monkeypatch.setattr(progress, "EVERY", 0.0)
    fit = Fit(tmp_path, arguments, 62, rows=5)
    assert fit.passes.eager == 0
    assert len(fit.losses) == 12


def test_adapter_dropout_is_another_in_each_replay(training: list[str], tmp_path: Path) -> None:
    arguments = [
        *training,
        "--model.adapter.dropout=0.5",
        "--model.adapter.init=gaussian",
        "--data.batch_size=2",
    ]
    graphs = Fit(tmp_path / "graphs", arguments, 30)
    plain = Fit(tmp_path / "plain", [*arguments, "--model.adapter.dropout=0"], 30)
    assert graphs.passes.eager == 0
    assert difference(graphs.norms, plain.norms) > 0.01


def test_what_cannot_be_captured_runs_eagerly_with_a_reason(
    training: list[str], tmp_path: Path
) -> None:
    """Checkpointing keeps the generator's state for dropout, which no graph can."""
    arguments = [
        *training,
        FUSED,
        "--model.adapter.dropout=0.2",
        "--model.gradient_checkpointing=true",
    ]
    with pytest.warns(UserWarning, match="cannot be captured: adapter dropout"):
        fit = Fit(tmp_path, arguments, 12)
    assert fit.passes.replays == 0
    assert fit.passes.eager == 12
    assert fit.update.replays == 12


def test_losses_that_are_not_finite_are_seen_though_nothing_waits(
    training: list[str], tmp_path: Path
) -> None:
    from elf.errors import ElfError

    arguments = [*training, "--model.optimizer.init_args.lr=1e30", "--trainer.precision=bf16-mixed"]
    with pytest.raises(ElfError, match=r"the loss is (nan|inf) at step \d+ \(pictures"):
        Fit(tmp_path, arguments, 12)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(autouse=True)
def _alone_on_its_port(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in [key for key in os.environ if key.startswith(("MASTER_", "RANK", "WORLD"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    yield
    torch.use_deterministic_algorithms(False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
