"""torchrun itself: its two processes give what one gives, and end together."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from elf import trainer
from elf.training.checkpoints import read_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform == "win32", reason="gloo and spawn differ there"),
]


ON_ONE_MACHINE = ("--standalone", "--nproc_per_node=2")


def start(*arguments: str, how: Sequence[str] = ON_ONE_MACHINE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *how, "-m", "elf", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run(*arguments: str) -> str:
    process = start(*arguments)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return said


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def test_labels_are_those_of_one_process(
    labelled: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    said = run(
        "predict", "--config=configs/tag/quickstart.yaml", f"--data.root={labelled / 'pictures'}",
        f"--data.labels={tmp_path / 'labels'}", f"--data.cache={tmp_path / 'cache'}",
        "--data.batch_size=4", f"--model.wd.model={tiny_models['tagger']}",
        f"--model.florence.model={tiny_models['captioner']}",
    )  # fmt: skip
    shares = re.search(r"by process: (\d+), (\d+) pictures", said)
    assert shares and min(map(int, shares.groups())) > 0
    assert files(tmp_path / "labels") == files(labelled / "labels")


def test_shards_are_those_of_one_process(training: list[str], tmp_path: Path) -> None:
    (shards,) = (Path(a.partition("=")[2]) for a in training if a.startswith("--data.shards="))
    said = run("prepare", *training, f"--data.shards={tmp_path / 'shards'}")
    assert said.count("made now") == 1
    assert files(tmp_path / "shards") == files(shards)


def test_a_run_is_measured_ended_and_gone_on_with(training: list[str], tmp_path: Path) -> None:
    given = [*training, f"--trainer.default_root_dir={tmp_path}", "--data.batch_size=2",
             "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false",
             "--model.validation_strata=2"]  # fmt: skip
    process = start("fit", *given, "--trainer.max_steps=100000")
    while process.poll() is None and not (tmp_path / "metrics.csv").is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # which torchrun passes on
    said, _ = process.communicate(timeout=300)
    assert said.count("elf: SIGTERM: saved at step") == 1, said
    step = read_checkpoint(tmp_path / "checkpoints/last.ckpt")["global_step"]
    assert step >= 1
    more = f"--trainer.max_steps={step + 2}"
    run("fit", *given, more, "--ckpt_path=last")
    assert read_checkpoint(tmp_path / "checkpoints/last.ckpt")["global_step"] == step + 2
    table = tmp_path / "validation.csv"
    said = run("validate", *given, "--ckpt_path=all")
    assert said.count("val/loss") == 1
    two = shutil.copy(table, tmp_path / "two.csv")
    trainer.validate([*given, "--ckpt_path=all"])
    assert Path(two).read_text() == table.read_text()


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def steady(training: list[str], folder: Path) -> list[str]:
    """Return a training that is the same in one process and in two, up to rounding."""
    return [*training, f"--trainer.default_root_dir={folder}", "--trainer.log_every_n_steps=1",
            "--trainer.enable_progress_bar=false", "--model.adapter.dropout=0",
            "--model.optimizer.class_path=torch.optim.SGD"]  # fmt: skip


def test_two_machines_are_one_run(training: list[str], port: int, tmp_path: Path) -> None:
    how = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--local_addr=127.0.0.1",
           f"--rdzv_endpoint=127.0.0.1:{port}")  # fmt: skip
    given = [*steady(training, tmp_path / "two"), "--trainer.max_steps=3", "--data.batch_size=2"]
    agents = [start("fit", *given, how=how) for _ in range(2)]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    trainer.fit([*steady(training, tmp_path / "one"), "--trainer.max_steps=3"])
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3 and two == pytest.approx(one, abs=1e-6, rel=1e-4)


def test_a_killed_process_ends_the_run_which_goes_on(training: list[str], tmp_path: Path) -> None:
    given = [*training, f"--trainer.default_root_dir={tmp_path}", "--data.batch_size=2",
             "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]  # fmt: skip
    last = tmp_path / "checkpoints/last.ckpt"
    every = "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 3}}]"
    process = start("fit", *given, every, "--trainer.max_steps=100000")
    while process.poll() is None and not last.is_file():
        time.sleep(0.05)
    one, other = psutil.Process(process.pid).children()
    other.kill()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert not one.is_running()
    (line,) = [line for line in said.splitlines() if line.startswith("elf: error: ")]
    assert "another process of this run has ended" in line and "--ckpt_path last" in line
    step = read_checkpoint(last)["global_step"]
    assert step % 3 == 0
    run("fit", *given, every, f"--trainer.max_steps={step + 2}", "--ckpt_path=last")
    assert read_checkpoint(last)["global_step"] == step + 2
