"""What a run's folder says of where it comes from, and what it holds at the end."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from elf import trainer
from elf.callbacks import RunPage
from elf.callbacks.run_record import record
from elf.environment import commit, environment
from elf.export import read_adapter


def test_a_run_leaves_what_is_needed_to_look_at_it_and_to_repeat_it(
    training: list[str], tmp_path: Path
) -> None:
    arguments = [*training, f"--trainer.default_root_dir={tmp_path}"]
    trainer.fit([*arguments, "--trainer.max_steps=3", "--trainer.log_every_n_steps=1"])
    made_with = json.loads((tmp_path / "environment.json").read_text())
    assert made_with["libraries"]["torch"] and made_with["precision"] == "32-true"
    assert made_with["processes"] == 1 and made_with["device"] == "cpu"
    data = json.loads((tmp_path / "data.json").read_text())
    assert set(data["fingerprints"]) == {"vae", "text"}
    assert data["train"] == sum(data["buckets"].values()) == sum(data["sets"].values())
    assert len(data["index_hash"]) == 16 and data["settings"]["resolution"] == 64
    config, state = read_adapter(tmp_path / "adapter")
    assert config.rank == 8 and state
    assert (tmp_path / "plots" / "loss.png").is_file()
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "samples/step-000000/" in page and "adapter/pytorch_lora_weights.safetensors" in page
    before = [(tmp_path / name).read_bytes() for name in ("environment.json", "data.json")]
    trainer.fit([*arguments, "--trainer.max_steps=4", "--ckpt_path=last"])
    after = [(tmp_path / name).read_bytes() for name in ("environment.json", "data.json")]
    assert before == after, "nothing is another"


def test_what_changed_is_added_when_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    first: dict[str, Any] = {"python": "3.11", "libraries": {"torch": "2.11", "peft": "0.21"}}
    later = {"python": "3.11", "libraries": {"torch": "2.14", "peft": "0.21"}}
    record(path, first, 0)
    record(path, first, 10)
    assert json.loads(path.read_text()) == first
    record(path, later, 20)
    record(path, later, 30)
    record(path, first, 40)
    assert json.loads(path.read_text()) == {
        **first,
        "resumed": [
            {"step": 20, "changed": {"libraries.torch": ["2.11", "2.14"]}},
            {"step": 40, "changed": {"libraries.torch": ["2.14", "2.11"]}},
        ],
    }
    record(path, later, 0)
    assert json.loads(path.read_text()) == later, "a new run in this folder"


def test_a_damaged_record_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("{")
    record(path, {"a": 1}, 5)
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_environment_is_plain_and_names_nobody() -> None:
    text = json.dumps(environment())
    assert '"elf"' in text
    assert Path.home().name not in text.split('"commit"')[0]


def test_a_commit_says_whether_files_were_changed(tmp_path: Path) -> None:
    assert commit(tmp_path) is None

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "elf").mkdir()
    (tmp_path / "elf" / "a.py").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = commit(tmp_path)
    assert clean is not None and len(clean) == 40
    (tmp_path / "elf" / "a.py").write_text("2\n")
    assert commit(tmp_path) == clean + "+"


def test_a_page_that_cannot_be_drawn_stops_nothing(tmp_path: Path) -> None:
    class Trainer:
        default_root_dir = str(tmp_path)
        is_global_zero = True

    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,edited by hand\n")
    stand_in: Any = Trainer()
    with pytest.warns(UserWarning, match="the run's page was not drawn"):
        RunPage()._draw(stand_in)
