"""benchmarks/fit.py and train_step.py run, on a CPU with tiny networks."""

import json
import runpy
import sys
from pathlib import Path

import pytest


def run(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("benchmarks")  # scripts there import each other
    monkeypatch.setattr(sys, "argv", [script, "--family", "tiny", "--device", "cpu", *arguments])
    runpy.run_path(f"benchmarks/{script}", run_name="__main__")


def test_the_whole_of_fit_is_timed_beside_the_bare_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [{"name": "of another run"}]}))
    arguments = ["--batch", "2", "--block", "3", "--repeats", "2", "--pictures", "6"]
    run("fit.py", [*arguments, "--json", str(path)], monkeypatch)
    rows = json.loads(path.read_text())["rows"]
    label = "tiny lora fp32 batch 2: fit"
    assert [row["name"] for row in rows] == [
        "of another run",
        f"{label}, a step",
        f"{label}, data wait of the step",
        f"{label}, loaded to first step",
    ]
    step, wait, first = rows[1:]
    assert step["ratio"] == pytest.approx(step["value"] / step["baseline"])
    assert len(step["blocks"]) == len(step["bare_blocks"]) == len(wait["blocks"]) == 2
    assert 0 <= wait["value"] < 100
    assert first["value"] > 0
    assert f"{label}, a step" in capsys.readouterr().out


def test_the_steps_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    run("train_step.py", ["--steps", "1", "--repeats", "1", "--json", str(path)], monkeypatch)
    rows = json.loads(path.read_text())["rows"]
    sides = ["example", "example, cached", "elf, eager", "elf, captured"]
    assert [row["name"] for row in rows] == [f"tiny lora fp32 batch 1, {side}" for side in sides]
    assert all(row["value"] > 0 for row in rows)
    assert "of the matrix rate" in capsys.readouterr().out
