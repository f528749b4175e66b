"""Fault 1 for answers: kill -9 while prompts are answered. Nothing is lost, nothing doubled."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elf.answers import answered
from elf.cli import main
from elf.files import read_log
from elf.world.elvish import write_lessons

pytestmark = [
    pytest.mark.fault(1),
    pytest.mark.skipif(sys.platform == "win32", reason="no signal 9"),
]

PROMPTS = 40
WRITER = """
import sys
from elf.answers import AnswerLog
identity = {"model": {"sha256": "a"}, "adapter": None, "generation": {"max_new_tokens": 8}}
log = AnswerLog(sys.argv[1], identity)
log.take_in()
print("open", flush=True)
count, batch = int(sys.argv[2]), []
for number in sorted(range(count), key=lambda n: (n * 7) % count):
    key = f"prompt {number}"
    if key not in log.ids:
        text = "word " * (number * 13 % 400)
        batch.append({"id": key, "answer": text, "asked": str(number), **identity})
    if len(batch) == 3:
        log.write(*batch)
        print(*(record["asked"] for record in batch), flush=True)
        batch = []
log.write(*batch)
log.finish((f"prompt {number}" for number in range(count)), [])
log.close()
print("done", flush=True)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")
    }


def start(folder: Path) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WRITER, str(folder / "answers.jsonl"), str(PROMPTS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_writers(tmp_path: Path, kills: int, figures: Any) -> None:
    start(tmp_path / "clean").communicate(timeout=60)
    expected, draw = content(tmp_path / "clean"), random.Random(0)
    assert len(read_log(tmp_path / "clean" / "answers.jsonl")) == PROMPTS
    killed = runs = lost = doubled = 0
    while killed < kills:
        folder, acknowledged = tmp_path / f"killed-{runs}", set[str]()
        runs += 1
        for _ in range(6):
            child = start(folder)
            assert child.stdout is not None and child.stdout.readline() == "open\n"
            time.sleep(draw.uniform(0, 0.01))
            child.kill()
            said = child.stdout.read().split()
            child.wait()
            child.stdout.close()
            killed += "done" not in said
            acknowledged |= {f"prompt {word}" for word in said if word != "done"}
            lost += len(acknowledged - answered(folder / "answers.jsonl").keys())
            ids = [record["id"] for record in read_log(folder / "answers.jsonl")]
            doubled += len(ids) - len(set(ids))
            assert lost == doubled == 0
            if "done" in said:
                break
        start(folder).communicate(timeout=60)
        assert content(folder) == expected
    figures(kills=killed, lost=lost, doubled=doubled)


def test_a_writer_killed_at_random_instants(tmp_path: Path, figures: Any) -> None:
    kill_writers(tmp_path, 20, figures)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_writer_killed_at_many_random_instants(tmp_path: Path, figures: Any) -> None:
    kill_writers(tmp_path, figures.part(500), figures)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's calls of jsonargparse
@pytest.mark.parametrize("processes", [1, 2])
def test_elf_predict_killed_half_way_and_started_again(
    processes: int, tiny_language: Path, make_language_run: Callable[..., Path], tmp_path: Path
) -> None:
    questions = write_lessons(tmp_path / "text", 2, 0, 120)["questions.jsonl"]
    arguments = [
        *("predict", "--config=configs/predict/text.yaml", f"--data.files=[{questions}]"),
        f"--model.base={tiny_language}",
        f"--model.adapter={make_language_run(tmp_path / 'run')}",
        "--model.generation.max_new_tokens=8",
        "--data.batch_size=2",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.enable_progress_bar=false",
    ]
    killed = tmp_path / "killed.jsonl"
    command = [sys.executable, "-m", "elf", *arguments, f"--data.answers={killed}"]
    several = ["--trainer.devices=2", "--trainer.strategy=ddp"] if processes > 1 else []
    child = subprocess.Popen(
        [*command, *several], env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True
    )
    end = time.monotonic() + 200
    while len(answered(killed)) < 30 and child.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert 30 <= len(answered(killed)) < 120
    main([*arguments, f"--data.answers={killed}"])
    main([*arguments, f"--data.answers={tmp_path / 'whole.jsonl'}"])
    assert killed.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    asked = [json.loads(line)["reference"] for line in questions.read_text().splitlines()]
    assert [record["reference"] for record in read_log(killed)] == asked
    assert not list(tmp_path.glob(".killed.jsonl.0*"))
