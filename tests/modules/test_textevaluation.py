"""`elf test` of language models through the real command: right, paired, and made once."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elf import trainer
from elf.modules import LanguageModule

Given = Callable[..., list[str]]

DATA = ("tokens", "forgetting")


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def rows(folder: Path, variant: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read(folder)["rows"] if row["variant"] in ("", variant)}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each base that is loaded is noted here."""
    found: list[str] = []
    configure = LanguageModule.configure_model

    def watched(module: LanguageModule) -> None:
        found.append(module.base_name)
        configure(module)

    monkeypatch.setattr(LanguageModule, "configure_model", watched)
    return found


def test_base_and_adapter_are_measured_in_pairs(
    text_given: Given, language_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.test(text_given(tmp_path))
    found, name = read(tmp_path), language_run.name
    assert [v["name"] for v in found["variants"]] == ["base", f"{name} × 0.5", f"{name} × 1"]
    measured = rows(tmp_path, f"{name} × 1")
    assert list(measured) == [
        "weight_change",
        "answer_change",
        "exact_match",
        "rouge_l",
        "bleu",
        "perplexity",
        "perplexity_ratio",
        "bits_per_byte",
        "token_accuracy",
        "trained_perplexity_ratio",
        "forgetting_exact_match",
        "forgetting_perplexity",
        "forgetting_perplexity_ratio",
    ]
    assert measured["weight_change"]["adapter"] > 0
    ratio, perplexity = measured["perplexity_ratio"], measured["perplexity"]
    assert ratio["adapter"] == pytest.approx(perplexity["adapter"] / perplexity["base"])
    assert ratio["difference"]["high"] < 0  # it was trained on such text
    assert perplexity["pictures"] == measured["trained_perplexity_ratio"]["pictures"] > 1
    weak = rows(tmp_path, f"{name} × 0.5")["weight_change"]["adapter"]
    assert weak == pytest.approx(measured["weight_change"]["adapter"] / 2)
    assert [prompt["forgetting"] for prompt in found["prompts"]] == [False] * 4 + [True] * 4
    assert len(found["answers"]) == 3 * 8
    assert found["prompts"][0]["text"].startswith("In elvish: ")
    assert found["verdict"]["indicative"]
    assert found["settings"]["model.base"] and found["hashes"].keys() == {"base", name, *DATA}
    report = (tmp_path / "report.html").read_text()
    assert found["prompts"][0]["reference"] in report and "script-src 'none'" in report
    assert f"{name}: " in capsys.readouterr().out
    assert (tmp_path / "answers.csv").read_text().count("In elvish: ") == 4


def test_the_figures_are_those_of_training(
    text_given: Given, language_run: Path, tmp_path: Path
) -> None:
    """The validation of the run's last step found the same held-out documents."""
    trainer.test(text_given(tmp_path, "--model.strengths=[1.0]"))
    header, *lines = (language_run / "metrics.csv").read_text().splitlines()
    known = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    last = next(each for each in reversed(known) if each["val/perplexity"])
    measured = rows(tmp_path, f"{language_run.name} × 1")
    assert measured["perplexity"]["adapter"] == pytest.approx(float(last["val/perplexity"]))
    assert measured["perplexity"]["base"] == pytest.approx(float(last["val/perplexity_base"]))
    assert measured["perplexity_ratio"]["adapter"] == pytest.approx(float(last["val/ratio"]))
    assert measured["token_accuracy"]["adapter"] == pytest.approx(float(last["val/accuracy"]))


def test_what_is_there_is_not_made_again(
    text_given: Given,
    language_run: Path,
    tmp_path: Path,
    loaded: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer.test(text_given(tmp_path))
    before = (tmp_path / "metrics.json").read_bytes()
    assert len(loaded) == 1
    trainer.test(text_given(tmp_path))
    assert len(loaded) == 1 and (tmp_path / "metrics.json").read_bytes() == before
    # the base's are there for another evaluation, others' answers are not
    shared = f"--model.base_generations={tmp_path / 'shared'}"
    there = len(list((tmp_path / "shared").rglob("*.json")))
    trainer.test(text_given(tmp_path / "other", shared, "--model.strengths=[2.0]"))
    assert len(loaded) == 2 and there == len(list((tmp_path / "shared").rglob("*.json")))
    # other options are other answers
    assert "holds a report of" not in capsys.readouterr().out
    file = language_run / "checkpoints" / "last.ckpt"
    options = ("--model.generation.max_new_tokens=5", f"--model.adapter={file}")
    trainer.test(text_given(tmp_path, *options))
    assert f"{tmp_path} holds a report of {language_run.name}," in capsys.readouterr().out
    assert len(loaded) == 3 and (tmp_path / "metrics.json").read_bytes() != before


@pytest.mark.slow
def test_several_adapters_are_as_if_each_were_alone(
    text_given: Given, language_run: Path, tmp_path: Path
) -> None:
    first = language_run / "checkpoints" / "step-000002.ckpt"
    trainer.test(text_given(tmp_path / "both", f"--model.adapter=[{first}, {language_run}]"))
    trainer.test(text_given(tmp_path / "one"))
    both, one, name = read(tmp_path / "both"), read(tmp_path / "one"), language_run.name
    assert [each["adapter"] for each in both["verdict"]["adapters"]] == [
        f"{name}/step-000002",
        name,
    ]
    mine = [row for row in both["rows"] if row["variant"].startswith(f"{name} × ")]
    assert mine == [row for row in one["rows"] if row["variant"]]
    assert one["verdict"]["adapters"][0] == both["verdict"]["adapters"][1]


def test_pefts_folder_is_the_run(text_given: Given, language_run: Path, tmp_path: Path) -> None:
    """Without the run beside it, documents come as files, and the base is named."""
    shutil.copytree(language_run / "adapter", tmp_path / "exported")
    documents = tmp_path / "held.jsonl"
    documents.write_text(json.dumps({"text": "Mira holds the lantern in a cave."}) + "\n")
    base = read_base(language_run)
    more = (f"--data.documents=[{documents}]", f"--model.base={base}", "--data.forgetting=[]")
    trainer.test(text_given(tmp_path / "a", *more, f"--model.adapter={tmp_path / 'exported'}"))
    trainer.test(text_given(tmp_path / "b", *more))
    exported, run = (rows(tmp_path / "a", "exported × 1"),
                     rows(tmp_path / "b", f"{language_run.name} × 1"))  # fmt: skip
    for key in ("weight_change", "exact_match", "rouge_l"):
        assert exported[key]["adapter"] == pytest.approx(run[key]["adapter"], rel=1e-3)
    assert exported["perplexity"]["pictures"] == 1  # the run has its held-out rows beside it
    assert run["perplexity"]["pictures"] > 2
    assert exported["perplexity_ratio"]["difference"]["low"] is None
    notes = {name: row["note"] for name, row in exported.items() if row["adapter"] is None}
    assert notes == {
        "trained_perplexity_ratio": "skipped: no trained documents; give data.tokens",
        "forgetting_exact_match": "skipped: give data.forgetting rows with `reference`",
        "forgetting_perplexity": "skipped: no such text; give data.forgetting",
        "forgetting_perplexity_ratio": "skipped: no such text; give data.forgetting",
    }


def read_base(run: Path) -> str:
    from elf.export.reading import of_run

    base = of_run(run, "model", "base")
    assert base is not None
    return base


def test_tokens_that_are_gone_are_a_row_not_a_crash(
    text_given: Given, language_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(language_run, run)
    config = (run / "config.yaml").read_text()
    tokens = next(line for line in config.splitlines() if line.strip().startswith("tokens:"))
    (run / "config.yaml").write_text(config.replace(tokens, "    tokens: gone"))
    trainer.test(text_given(tmp_path / "out", f"--model.adapter={run}"))
    note = rows(tmp_path / "out", "run × 1")["perplexity"]["note"]
    assert note == (
        "skipped: the run's tokens are not in gone; run `elf prepare` again with its config.yaml"
    )


@pytest.mark.slow
def test_tensorboard_gets_figures_and_answers(
    text_given: Given, language_run: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer.test(text_given(tmp_path, "--logger=tensorboard"))
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events), size_guidance={"tensors": 0})
    found.Reload()
    name = f"{language_run.name} × 1"
    (scalar,) = found.Scalars(f"perplexity/{name}")
    assert scalar.value == pytest.approx(rows(tmp_path, name)["perplexity"]["adapter"])
    assert {"evaluation/text_summary", "answers/text_summary"} <= set(found.Tags()["tensors"])


@pytest.mark.slow
def test_wandb_gets_figures_and_answers_without_an_account(
    text_given: Given, language_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    trainer.test(text_given(tmp_path, "--logger=wandb"))
    (offline,) = tmp_path.glob("wandb/offline-run-*")
    tables = [json.loads(path.read_text()) for path in offline.rglob("*.table.json")]
    found = {table["columns"][1]: table for table in tables}
    assert found["prompt"]["columns"][4:] == [
        "base", f"{language_run.name} × 0.5", f"{language_run.name} × 1"
    ]  # fmt: skip
    assert [row[1] for row in found["prompt"]["data"]] == [
        prompt["text"] for prompt in read(tmp_path)["prompts"]
    ]


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "elf", "test", *arguments]


@pytest.mark.slow
def test_after_a_kill_the_same_is_found(text_given: Given, tmp_path: Path) -> None:
    trainer.test(text_given(tmp_path / "whole"))
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(text_given(killed)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(killed.rglob("kept/*/*.json"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (killed / "metrics.json").exists()
    trainer.test(text_given(killed))
    for name in ("metrics.json", "report.html"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo and spawn differ there")
def test_two_processes_find_what_one_does(text_given: Given, tmp_path: Path) -> None:
    trainer.test(text_given(tmp_path / "one"))
    more = ("--trainer.devices=2", "--trainer.strategy=ddp")
    result = subprocess.run(
        command(text_given(tmp_path / "two", *more)),
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = ((tmp_path / each / "metrics.json").read_bytes() for each in ("one", "two"))
    assert one == two
