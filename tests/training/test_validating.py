"""`elf validate` of many checkpoints: the figures of each alone, whatever ends it on disk."""

import csv
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elf import cli, trainer
from elf.callbacks import StepBar
from elf.errors import ElfError
from elf.files import FolderLock
from elf.modules import diffusion
from elf.modules.diffusion import DiffusionModule
from elf.training.checkpoints import weights_hash
from elf.training.denoiser import Denoiser

QUICK = ("--model.validation_strata=2",)
KINDS = {
    "lora": [],
    "ema": ["--model.ema.decay=0.9"],
    "dora": ["--model.adapter.kind=dora"],
    "pissa": ["--model.adapter.init=pissa"],
}


def fit(training: list[str], folder: Path, *more: str) -> Path:
    """Train so that three checkpoints are kept, each validated when it was written."""
    keeping = "{class_path: AdapterCheckpoint, init_args: {every_n_steps: 4, keep: -1}}"
    options = ("--trainer.max_steps=12", "--trainer.val_check_interval=4", *QUICK)
    where = f"--trainer.default_root_dir={folder}"
    trainer.fit([*training, where, *options, f"--trainer.callbacks=[{keeping}]", *more])
    return folder


@pytest.fixture(scope="module")
def trained(training: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(training, tmp_path_factory.mktemp("validated") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The folder of a run with checkpoints of three steps."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def of(folder: Path, *more: str) -> list[str]:
    return [f"--config={folder}/config.yaml", f"--trainer.default_root_dir={folder}", *more]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figures(row: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in row.items() if key.startswith("val")}


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    calls: list[int] = []
    original = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)
    return calls


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=pytest.mark.slow) if k in ("dora", "lora", "pissa") else k
        for k in KINDS
    ],
)
def test_all_checkpoints_have_the_figures_that_training_logged(
    training: list[str], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fit(training, tmp_path / "run", *KINDS[kind])
    before = (run / "metrics.csv").read_bytes()
    made = counted(monkeypatch, diffusion, "build")
    off = counted(monkeypatch, Denoiser, "adapter_off")
    done = trainer.run("validate", of(run, "--ckpt_path=all"))
    assert len(made) == 1
    assert len(off) == sum(done.trainer.num_val_batches), "each batch once, not thrice"
    found = rows(run / "validation.csv")
    logged = [row for row in rows(run / "metrics.csv") if row["val/loss"]]
    assert [row["step"] for row in found] == ["4", "8", "12"]
    assert [figures(row) for row in found] == [figures(row) for row in logged]
    assert len({row["val/loss"] for row in found}) == 3
    assert (run / "metrics.csv").read_bytes() == before
    assert not list(run.rglob("*.tmp"))


def test_each_has_the_figures_of_a_command_of_its_own(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.validate(of(run, "--ckpt_path=all"))
    lines = capsys.readouterr().out.splitlines()
    together = rows(run / "validation.csv")
    alone = []
    for step in (12, 4, 8):
        trainer.validate(of(run, f"--ckpt_path={run}/checkpoints/step-{step:06d}.ckpt"))
        alone += rows(run / "validation.csv")
    assert together == sorted(alone, key=lambda row: int(row["step"]))
    names = [line.split()[1] for line in lines[1:4]]
    assert (
        lines[0].split() == "step checkpoint val/loss val/ratio 95 % interval trained gap".split()
    )
    assert names == ["step-000004", "step-000008", "step-000012"]
    assert "last)" in lines[3] and "(best-" in "".join(lines[1:4])
    losses = [float(row["val/loss"]) for row in together]
    lowest = [line.endswith("lowest") for line in lines[1:4]]
    assert lowest == [loss == min(losses) for loss in losses]
    for line, loss in zip(lines[1:4], losses, strict=True):
        assert f" {loss:.5f} " in line
    assert lines[4] == (
        f"All figures are in {run / 'validation.csv'}, the curve is {run / 'validation.png'}"
    )
    with Image.open(run / "validation.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_what_is_named_twice_counts_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = run / "checkpoints"
    config = run.parent / "overlay.yaml"
    config.write_text(f"ckpt_path: [last, '{checkpoints}/step-*.ckpt', last]\n")
    trainer.validate(of(run, f"--config={config}"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["4", "8", "12"]
    assert "last (step-000012)" in lines[3]
    assert lines[4].startswith("All figures")
    copy = run.parent / "copy,elsewhere.ckpt"
    shutil.copy(checkpoints / "step-000004.ckpt", copy)
    trainer.validate(of(run, f"--ckpt_path={copy}"))
    assert f"  {copy}  " in capsys.readouterr().out
    trainer.validate(of(run, f"--ckpt_path={checkpoints}/step-000004.ckpt,last", "--verbose=false"))
    assert capsys.readouterr().out == ""
    assert [row["step"] for row in rows(run / "validation.csv")] == ["4", "12"]


def test_a_new_adapter_leaves_no_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer.validate(of(run))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].split()[:4] == ["0", "none:", "a", "new"]
    assert " 1.0000 to 1.0000 " in lines[1] and "lowest" not in lines[1]
    assert not list(run.glob("*validation*"))


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, " is no checkpoint of Elf, or is damaged ("),
        (
            lambda path: altered(path, lambda saved: saved.pop("loops")),
            " lacks 'loops': it is damaged, or of another version of Elf; leave it out",
        ),
        (
            lambda path: altered(path, lambda saved: saved["elf"].pop("identity")),
            " lacks 'identity': it is damaged, or of another version of Elf; leave it out",
        ),
        (
            lambda path: altered(path, lambda saved: saved["elf"].update(base_sha256="0")),
            ": model.base: the UNet of {base} is not the one this run was trained on; leave it "
            "out, or validate it with its own run's config.yaml",
        ),
        (
            lambda path: altered(
                path, lambda saved: saved["elf"]["identity"].update({"model.adapter.rank": 4})
            ),
            ": model.adapter.rank is 8 here and 4 in the checkpoint; leave it out, or validate it "
            "with its own run's config.yaml",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_measured(
    run: Path,
    tiny_models: dict[str, Path],
    change: Callable[[Path], object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = run / "checkpoints/step-000008.ckpt"
    change(path)
    made = counted(monkeypatch, diffusion, "build")
    with pytest.raises(ElfError) as refused:
        trainer.validate(of(run, f"--ckpt_path={run}/checkpoints/step-*.ckpt"))
    text = str(refused.value)
    assert text.startswith(f"{path}{message.format(base=tiny_models['base'])}")
    assert "\n" not in text
    assert not made
    assert not (run / "validation.csv").exists()
    trainer.validate(of(run, "--ckpt_path=last", "--verbose=false"))  # the folder is free again


def test_nothing_to_validate_on_is_refused(training: list[str], run: Path, tmp_path: Path) -> None:
    options = ("--data.held_out=0", f"--data.shards={tmp_path / 'shards'}")
    trainer.prepare([*training, *options])
    with pytest.raises(ElfError) as refused:
        trainer.validate(of(run, "--ckpt_path=all", *options))
    assert str(refused.value) == (
        "data.held_out 0 leaves no picture to validate on: set it higher (0.05 is usual), and run "
        "`elf prepare` with that config again"
    )
    with pytest.raises(ElfError) as refused:
        trainer.validate(of(run, "--ckpt_path=all", "--trainer.limit_val_batches=0"))
    assert str(refused.value) == (
        "trainer.limit_val_batches is 0, so nothing is validated; leave it out"
    )


def at_the_second(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], hook: str) -> None:
    """Do something while the second checkpoint is measured."""
    original, seen = getattr(DiffusionModule, hook), []

    def wrapper(self: DiffusionModule) -> None:
        seen.append(1)
        if len(seen) == 2:
            act()
        original(self)

    monkeypatch.setattr(DiffusionModule, hook, wrapper)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_measured_before_a_signal_is_on_disk(
    run: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C ends it at once, SIGTERM behind the checkpoint that is being measured."""
    (run / "validation.csv").write_text("of a command before\n")
    at_the_second(monkeypatch, lambda: os.kill(os.getpid(), number), "on_validation_epoch_end")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        cli.main(["validate", *of(run, "--ckpt_path=all")])
    assert signal.getsignal(number) == before
    assert end.value.code == 128 + number
    done = 1 if number == signal.SIGINT else 2
    captured = capsys.readouterr()
    assert captured.out == ""
    said = [line for line in captured.err.splitlines() if line and "it/s" not in line]
    assert said[-1:] == [
        f"elf: stopped: {done} of 3 checkpoints are measured, in {run / 'validation.csv'}"
    ]
    assert "Traceback" not in captured.err and "graceful" not in captured.err
    assert [row["step"] for row in rows(run / "validation.csv")] == ["4", "8", "12"][:done]
    trainer.validate(of(run, "--ckpt_path=last", "--verbose=false"))  # the folder is free again


def test_a_checkpoint_that_changes_meanwhile_is_told(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "checkpoints/step-000012.ckpt"

    def replace() -> None:
        shutil.copy(run / "checkpoints/step-000008.ckpt", path)

    at_the_second(monkeypatch, replace, "on_validation_end")
    with pytest.raises(ElfError) as refused:
        trainer.validate(of(run, f"--ckpt_path={run}/checkpoints/step-*.ckpt"))
    assert str(refused.value) == (
        f"{path} has changed since it was looked at; validate it when its run has ended"
    )
    assert [row["step"] for row in rows(run / "validation.csv")] == ["4", "8"]


def test_two_commands_in_one_folder_at_a_time_are_refused(run: Path) -> None:
    with (
        FolderLock(run, ".validation.lock"),
        pytest.raises(ElfError, match=rf"{run} is being written by another process \(pid"),
    ):
        trainer.validate(of(run, "--ckpt_path=last"))
    with FolderLock(run):  # a training that goes on there is no hindrance
        trainer.validate(of(run, "--ckpt_path=last", "--verbose=false"))


def test_figures_that_cannot_be_written_are_told(run: Path) -> None:
    (run / "validation.png").mkdir()
    with pytest.raises(ElfError, match=r"validation\.png.*: the figures were not written \("):
        trainer.validate(of(run, "--ckpt_path=last"))
    assert len(rows(run / "validation.csv")) == 1


@pytest.mark.slow
def test_loggers_show_the_same_figures(run: Path) -> None:
    before = (run / "metrics.csv").read_bytes()
    for _ in range(2):  # the second takes the place of the first
        trainer.validate(of(run, "--ckpt_path=all", "--logger=tensorboard", "--verbose=false"))
    events = EventAccumulator(str(run / "validation/tensorboard"))
    events.Reload()
    found = rows(run / "validation.csv")
    logged = [row["step"] for row in rows(run / "metrics.csv") if row["val/loss"]]
    for key in ("val/loss", "val_trained/ratio", "val/loss_stratum_1"):
        scalars = events.Scalars(key)
        assert [str(each.step) for each in scalars] == logged
        assert [f"{each.value:.9g}" for each in scalars] == [row[key] for row in found]
    assert (run / "metrics.csv").read_bytes() == before


def test_wandb_gets_a_run_of_its_own(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    trainer.validate(of(run, "--ckpt_path=last", "--logger=wandb", "--verbose=false"))
    (events,) = (run / "validation/wandb").glob("offline-run-*/*.wandb")
    assert b"run validation" in events.read_bytes()
    assert not (run / "wandb").exists()


def test_the_bar_says_which_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(StepBar, "_bar", lambda self, **options: said.append(options["desc"]))
    trainer.validate(of(run, "--ckpt_path=all", "--verbose=false"))
    trainer.validate(of(run, "--ckpt_path=last", "--verbose=false"))
    assert said == [*(f"checkpoint {number} of 3" for number in (1, 2, 3)), "validation"]


def test_help_says_what_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["validate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--ckpt_path CKPT_PATH, --ckpt_path+ CKPT_PATH What to validate: `last` or `all`" in text


def test_a_pattern_without_quotes_is_explained(run: Path) -> None:
    paths = map(str, sorted((run / "checkpoints").glob("step-*.ckpt")))
    with pytest.raises(ElfError, match=r"stands alone: .*; a pattern of files needs quotes, as in"):
        trainer.validate([*of(run), "--ckpt_path", *paths])


def test_the_hash_of_weights_is_of_all_that_they_are() -> None:
    one = {"a": torch.ones(2, 3), "b": torch.tensor(1.0)}
    same = dict(reversed([(key, value.clone()) for key, value in one.items()]))
    assert weights_hash(one) == weights_hash(same)
    others = [
        {**one, "a": torch.ones(3, 2)},
        {**one, "b": torch.tensor(1.0, dtype=torch.bfloat16)},
        {**one, "b": torch.tensor(2.0)},
        {"a": one["a"], "c": one["b"]},
    ]
    assert len({weights_hash(each) for each in (one, *others)}) == 5
