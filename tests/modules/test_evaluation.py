"""`elf test` through the real command: measured, paired, honest about what is missing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from elf import trainer
from elf.modules import DiffusionModule

Given = Callable[..., list[str]]


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read(folder)["rows"]}


def pictures(folder: Path) -> dict[str, bytes]:
    found = folder.glob("pictures/*/*.png")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_base_and_adapter_are_measured_in_pairs(
    given: Given, run_folder: Path, tmp_path: Path
) -> None:
    trainer.test(given(tmp_path))
    measured = rows(tmp_path)
    assert list(measured) == [
        "weight_change",
        "held_out_loss",
        "trained_loss",
        "picture_change",
        "subject_similarity",
        "subject_share",
        "subject_similarity_clip",
        "kid",
        "cmmd",
        "fid",
        "prompt_similarity",
        "prompt_margin",
        "prompt_similarity_without_trigger",
        "diversity",
        "diversity_ratio",
        "drift",
        "copies",
        "nearest_similarity",
        "concept_rate",
        "attribute_rate",
        "concept_rate_without_trigger",
        "attribute_rate_without_trigger",
    ]
    assert measured["concept_rate"]["note"].startswith("how often leaf_crown is seen")
    assert measured["weight_change"]["adapter"] > 0
    assert measured["fid"]["note"] == "skipped: it takes 2,048 pictures a side, of 6 it is wrong"
    loss = measured["held_out_loss"]
    assert loss["adapter"] < loss["base"]
    assert loss["difference"]["mean"] == pytest.approx(loss["adapter"] - loss["base"])
    found, name = read(tmp_path), run_folder.name
    assert [v["name"] for v in found["variants"]] == ["base", f"{name} × 1"]
    assert found["plan"]["triggered"] == [True, True, True, False]
    assert len(found["pictures"]) == 16 == len(list(tmp_path.glob("pictures/[!t]*/*.png")))
    made = pictures(tmp_path)
    assert {each["file"] for each in found["pictures"]} <= made.keys()
    assert made["pictures/base/0000.png"] != made[f"pictures/{name}___1/0000.png"]
    assert len(found["nearest"]) == 8 and all(n["training"] in made for n in found["nearest"])
    assert [loss["variant"] for loss in found["loss"]] == ["base"] * 8 + [f"{name} × 1"] * 8
    assert found["verdict"]["indicative"]
    assert "wood_elf, forest" in (tmp_path / "report.html").read_text()
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == 8 * 130 - 2  # 64 px pictures at twice their size, 2 px apart


@pytest.mark.slow
def test_the_same_evaluation_gives_the_same_figures(given: Given, tmp_path: Path) -> None:
    for size in (3, 8):
        more = f"--data.batch_size={size}"
        trainer.test(given(tmp_path / str(size), more))
    first, second = rows(tmp_path / "3"), rows(tmp_path / "8")
    for name, row in first.items():
        assert row["adapter"] == pytest.approx(second[name]["adapter"], abs=1e-3)


@pytest.mark.slow
def test_any_seeds_are_shown_as_what_they_are(given: Given, tmp_path: Path) -> None:
    more = ("--data.seeds=[7, 3]", "--model.models={clip: null, tagger: null}")
    trainer.test(given(tmp_path, *more, "--model.concept=null"))
    files = {
        (p["prompt"], p["seed"]): p["file"]
        for p in read(tmp_path)["pictures"]
        if p["variant"] == "base"
    }
    assert files[0, 7] == "pictures/base/0000.png" and files[0, 3] == "pictures/base/0001.png"
    page = (tmp_path / "report.html").read_text()
    assert "seed 7" in page and "seed 3" in page and "not drawn" not in page
    verdict = read(tmp_path)["verdict"]
    assert verdict["adapters"][0]["kind"] == "unclear"
    assert verdict["why"] == (
        "nothing says how much was learnt; give data.shards, or model.concept"
    )


@pytest.mark.slow
def test_several_adapters_at_several_strengths(
    given: Given, run_folder: Path, tmp_path: Path
) -> None:
    """Each as if it were alone; the base's pictures are made once."""
    first = run_folder / "checkpoints" / "step-000006.ckpt"
    more = ("--model.strengths=[1, 0.5]", "--model.models.tagger=null", "--data.seeds=[0]")
    together = f"--model.adapter=[{first}, {run_folder}]"
    trainer.test(given(tmp_path / "both", *more, together))
    trainer.test(given(tmp_path / "one", *more))
    both, one = read(tmp_path / "both"), read(tmp_path / "one")
    name = run_folder.name
    assert [v["name"] for v in both["variants"]] == [
        "base",
        *(f"{name}/step-000006 × {s}" for s in ("0.5", "1")),
        *(f"{name} × {s}" for s in ("0.5", "1")),
    ]
    assert [v["adapter"] for v in both["verdict"]["adapters"]] == [f"{name}/step-000006", name]
    of_second = [row for row in both["rows"] if row["variant"].startswith(f"{name} × ")]
    assert of_second == [row for row in one["rows"] if row["variant"]]
    made, alone = pictures(tmp_path / "both"), pictures(tmp_path / "one")
    assert alone.items() <= {**made, **{k: v for k, v in alone.items() if "training" in k}}.items()
    weak, strong = (rows_of(one, f"{name} × {s}")["picture_change"] for s in ("0.5", "1"))
    assert 0 < weak["adapter"] < strong["adapter"]
    changes = [rows_of(one, f"{name} × {s}")["weight_change"]["adapter"] for s in ("0.5", "1")]
    assert changes[1] == pytest.approx(2 * changes[0])


def rows_of(found: dict[str, Any], variant: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["rows"] if row["variant"] == variant}


def test_what_is_there_is_not_made_again(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.test(given(tmp_path))
    before = (tmp_path / "metrics.json").read_bytes(), pictures(tmp_path)
    sampled: list[list[str]] = []
    generate = DiffusionModule.generate

    def watched(module: DiffusionModule, prompts: list[str], *rest: Any) -> Any:
        sampled.append(prompts)
        return generate(module, prompts, *rest)

    monkeypatch.setattr(DiffusionModule, "generate", watched)
    trainer.test(given(tmp_path))
    assert sampled == []
    assert ((tmp_path / "metrics.json").read_bytes(), pictures(tmp_path)) == before
    # other steps are other pictures; a missing one is made again, with those of its batch
    trainer.test(given(tmp_path, "--model.generation.steps=2"))
    assert len(sampled) == 2
    assert pictures(tmp_path).keys() == before[1].keys()
    assert pictures(tmp_path) != before[1]


def test_after_a_kill_the_same_is_found(given: Given, tmp_path: Path) -> None:
    more = ("--data.batch_size=2",)
    trainer.test(given(tmp_path / "whole", *more))
    command = given(tmp_path / "killed", *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "elf", "test", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(pictures(tmp_path / "killed")) < 5:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    trainer.test(command)
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert (killed / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    assert (killed / "report.html").read_bytes() == (whole / "report.html").read_bytes()
    assert pictures(killed) == pictures(whole)


def test_missing_weights_are_a_row_not_a_crash(
    given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--model.models.clip=nobody/nothing", "--model.models.dino=./nowhere")
    trainer.test(given(tmp_path, *more))
    told = "model.models.dino: there is no ./nowhere, so what is measured with it is left out\n"
    assert told in capsys.readouterr().out
    note = rows(tmp_path)["prompt_similarity"]["note"]
    assert note.startswith("skipped: ") and "nobody/nothing is not on this machine" in note
    assert "hf download nobody/nothing" in note


@pytest.mark.slow
def test_without_shards_or_models_the_rest_is_measured(given: Given, tmp_path: Path) -> None:
    more = (
        "--model.models={clip: null, tagger: null}",
        "--model.concept=null",
        "--data.shards=null",
    )
    trainer.test(given(tmp_path, *more))
    measured = rows(tmp_path)
    assert measured["picture_change"]["adapter"] > 0
    notes = {name: row["note"] for name, row in measured.items() if not row["variant"]}
    assert notes == {
        "held_out_loss": "skipped: no such pictures; set data.shards, and data.held_out there",
        "trained_loss": "skipped: no such pictures; set data.shards, and data.held_out there",
        "subject_similarity": "skipped: no dino model; set model.models.dino to a DINOv2 model",
        "prompt_similarity": "skipped: no clip model; set model.models.clip to a CLIP model",
        "copies": "skipped: no training pictures, or no model to compare with them",
        "attributes": "skipped: no tagger; set model.models.tagger to a WD tagger",
    }


def test_one_picture_is_measured_without_intervals(given: Given, tmp_path: Path) -> None:
    more = ('--data.prompts=["wood_elf, forest"]', "--data.seeds=[0]")
    trainer.test(given(tmp_path, *more))
    measured = rows(tmp_path)
    difference = measured["subject_similarity"]["difference"]
    assert difference["mean"] != 0 and difference["low"] is None
    assert measured["diversity"]["note"].startswith("skipped: it takes two seeds")
    assert measured["kid"]["note"] == "skipped: it takes two pictures on each side"
    assert read(tmp_path)["verdict"]["adapters"][0]["strength"] is None


@pytest.mark.slow
def test_tensorboard_gets_figures_table_and_pictures(
    given: Given, run_folder: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ("--logger=tensorboard", "--data.seeds=[0]", "--model.models.tagger=null")
    trainer.test(given(tmp_path, *more, "--model.concept=null"))
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    tags = found.Tags()
    name = run_folder.name
    row = rows(tmp_path)["prompt_similarity"]
    (scalar,) = found.Scalars(f"prompt_similarity/{name} × 1")
    assert scalar.value == pytest.approx(row["adapter"])
    assert {"evaluation/text_summary", "pictures/text_summary"} <= set(tags["tensors"])
    table = found.Tensors("evaluation/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| prompt_similarity |" in table
    assert tags["images"] == ["grid", *(f"sheets/prompt-{n:02d}" for n in range(4))]
    sheet = found.Images("sheets/prompt-01")[0]
    assert sheet.width > 2 * 128 and sheet.height > 128  # base and adapter, enlarged


@pytest.mark.slow
def test_wandb_gets_table_and_pictures_without_an_account(
    given: Given, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    more = ("--logger=wandb", "--data.seeds=[0]", "--model.models={clip: null, tagger: null}")
    trainer.test(given(tmp_path, *more, "--model.concept=null"))
    (offline,) = tmp_path.glob("wandb/offline-run-*")
    tables = [json.loads(path.read_text()) for path in offline.rglob("*.table.json")]
    found = {table["columns"][1]: table for table in tables}
    assert found.keys() == {"metric", "prompt"}
    measured = [row["name"] for row in read(tmp_path)["rows"]]
    assert [row[1] for row in found["metric"]["data"]] == measured
    assert found["prompt"]["columns"][3:] == ["base", f"{run_folder.name} × 1"]
    assert [row[1] for row in found["prompt"]["data"]] == read(tmp_path)["plan"]["prompts"]
    assert all(row[3:] == ["Image", "Image"] for row in found["prompt"]["data"])
    assert len(list(offline.rglob("grid_*.png"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo and spawn differ there")
def test_two_processes_find_what_one_does(given: Given, tmp_path: Path) -> None:
    more = ("--data.batch_size=2",)
    trainer.test(given(tmp_path / "one", *more))
    command = given(tmp_path / "two", *more)
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "-m", "elf", "test", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert {**two, "rows": [], "loss": []} == {**one, "rows": [], "loss": []}
    for mine, other in zip(one["rows"], two["rows"], strict=True):
        value = mine["adapter"]  # none of what was skipped
        assert other["adapter"] == (value and pytest.approx(value, rel=1e-3, abs=1e-4)), mine[
            "name"
        ]
