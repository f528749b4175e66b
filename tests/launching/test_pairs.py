"""Commands in two processes of a launcher: the results of one, and an end for both."""

import csv
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elf import trainer

Variables = Callable[[int, int], dict[str, str]]


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("elf: error: ")]


def metrics(folder: Path) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


def short(training: list[str], folder: Path, *more: str) -> list[str]:
    return [
        *training,
        f"--trainer.default_root_dir={folder}",
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
        "--model.adapter.dropout=0",  # each process draws its own
        # not AdamW, which makes whole steps of gradients that are mostly rounding
        "--model.optimizer.class_path=torch.optim.SGD",
        "--model.optimizer.init_args.lr=0.5",
        *more,
    ]


def test_two_processes_share_preparing_and_the_shards_are_those_of_one(
    training: list[str], pairs: Any, torchrun_variables: Variables, tmp_path: Path
) -> None:
    def given(name: str, *more: str) -> list[str]:
        return [*training, f"--data.shards={tmp_path / name}", "--data.shard_size=8", *more]

    trainer.prepare(given("one"))
    ended = pairs.run(torchrun_variables, "prepare", *given("two"))
    assert ended.codes == [0, 0], ended.said
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert len(list((tmp_path / "two").glob("latents-*.tar"))) == 4
    assert "made now   24 pictures, 24 latents, 49 caption states" in ended.said[0]
    assert "pictures" not in ended.said[1], "one of them says what was made"
    # shards of another size, and other captions: what is there is taken over
    (tmp_path / "two" / ".left.tmp").write_bytes(b"of a killed run")
    changed = ("--data.shard_size=20", "--data.caption=both")
    trainer.prepare(given("one", *changed))
    ended = pairs.run(torchrun_variables, "prepare", *given("two", *changed))
    assert ended.codes == [0, 0], ended.said
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert ", 0 latents" in ended.said[0]
    assert not list((tmp_path / "two").glob(".*.tmp"))


def test_two_machines_train_what_one_process_does(
    training: list[str], pairs: Any, slurm_variables: Variables, tmp_path: Path
) -> None:
    trainer.fit(short(training, tmp_path / "one"))
    given = short(training, tmp_path / "two", "--data.batch_size=2")
    ended = pairs.run(slurm_variables, "fit", *given)
    assert ended.codes == [0, 0], ended.said
    one, other = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one.keys() == other.keys() and len(one["train/loss"]) == 3
    for key, values in one.items():
        if key != "step":
            assert other[key] == pytest.approx(values, abs=1e-6, rel=1e-4), key
    assert "num_nodes: 1" in (tmp_path / "two" / "config.yaml").read_text()
    # so the run's own configuration will do in one process, too
    more = ("--trainer.max_steps=4", "--ckpt_path=last")
    trainer.fit([*short(training, tmp_path / "two"), *more])


def test_what_is_wrong_with_the_input_is_said_once(
    training: list[str], pairs: Any, torchrun_variables: Variables, tmp_path: Path
) -> None:
    def end_the_other(children: list[int], logs: list[Path]) -> None:
        while not (logs[0].exists() and errors(logs[0].read_text())):
            time.sleep(0.01)
        os.kill(children[1], signal.SIGTERM)  # as torchrun does

    given = short(training, tmp_path, "--trainer.devices=3")
    ended = pairs.run(torchrun_variables, "fit", *given, meanwhile=end_the_other)
    assert ended.codes == [2, -signal.SIGTERM]
    (line,) = errors(ended.said[0] + ended.said[1])
    assert line.startswith("elf: error: trainer.devices 3: torchrun started 2 processes on this")


@pytest.mark.parametrize("command", ["fit", "prepare"])
def test_when_one_is_killed_the_other_ends_with_a_line(
    command: str, training: list[str], pairs: Any, slurm_variables: Variables, tmp_path: Path
) -> None:
    def kill_the_second(children: list[int], logs: list[Path]) -> None:
        until = tmp_path / ("metrics.csv" if command == "fit" else "shards/.lock")
        while not until.exists():
            time.sleep(0.01)
        os.kill(children[1], signal.SIGKILL)

    more = ["--trainer.max_steps=9999", "--data.batch_size=2"]
    given = short(training, tmp_path, *more) if command == "fit" else training
    given = [*given, f"--data.shards={tmp_path / 'shards'}"] if command == "prepare" else given
    ended = pairs.run(slurm_variables, command, *given, meanwhile=kill_the_second)
    assert ended.codes == [2, -signal.SIGKILL], ended.said
    (line,) = errors(ended.said[0])
    assert line.startswith("elf: error: another process of this run has ended, or cannot be reach")
    assert "Traceback" not in ended.said[0]
