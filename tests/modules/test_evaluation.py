"""`elf test` through the real command: measured, paired, honest about what is missing."""

import json
from pathlib import Path

import pytest
from PIL import Image

from elf import cli, trainer
from elf.errors import ElfError


@pytest.fixture(scope="module")
def run_folder(training: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer.fit([*training, f"--trainer.default_root_dir={folder}", "--trainer.max_steps=12"])
    return folder


def arguments(
    run_folder: Path, labelled: Path, tiny_models: dict[str, Path], output: Path, *more: str
) -> list[str]:
    return [
        "--config=configs/eval/quickstart.yaml",
        f"--model.base={tiny_models['base']}",
        f"--model.adapter={run_folder}",
        f"--model.embedder={tiny_models['clip']}",
        f"--model.tagger={tiny_models['tagger']}",
        "--model.concept=leaf_crown",
        f"--trainer.default_root_dir={output}",
        f"--data.shards={labelled / 'shards'}",
        "--model.generation.steps=3",
        '--data.prompts=["wood_elf, forest", "wood_elf, snow", "wood_elf, city", "night"]',
        "--data.seeds=[0, 1]",
        *more,
    ]


def rows(folder: Path) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads((folder / "metrics.json").read_text())["rows"]}


def test_base_and_adapter_are_measured_in_pairs(
    run_folder: Path, labelled: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    trainer.test(arguments(run_folder, labelled, tiny_models, tmp_path))
    measured = rows(tmp_path)
    assert list(measured) == [
        "weight_change",
        "held_out_loss",
        "prompt_similarity",
        "subject_similarity",
        "concept_rate",
        "attribute_rate",
        "concept_rate_without_trigger",
        "attribute_rate_without_trigger",
    ]
    assert measured["concept_rate"]["note"].startswith("how often leaf_crown is seen")
    assert measured["weight_change"]["adapter"] > 0
    loss = measured["held_out_loss"]
    assert loss["adapter"] < loss["base"]
    assert loss["difference"]["mean"] == pytest.approx(loss["adapter"] - loss["base"])
    for name in ("base", "adapter"):
        pictures = sorted((tmp_path / "pictures" / name).iterdir())
        assert [picture.name for picture in pictures] == [f"{n:04d}.png" for n in range(8)]
    assert (tmp_path / "pictures/base/0000.png").read_bytes() != (
        tmp_path / "pictures/adapter/0000.png"
    ).read_bytes()
    report = (tmp_path / "report.md").read_text()
    assert "| held_out_loss |" in report
    assert "1. wood_elf, forest (seed 0)" in report
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == 8 * 130 - 2  # 64 px pictures at twice their size, 2 px apart


def test_the_same_evaluation_gives_the_same_figures(
    run_folder: Path, labelled: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    for size in (3, 8):
        more = (f"--data.batch_size={size}", f"--model.generation.batch_size={size}")
        trainer.test(arguments(run_folder, labelled, tiny_models, tmp_path / str(size), *more))
    first, second = rows(tmp_path / "3"), rows(tmp_path / "8")
    for name, row in first.items():
        assert row["adapter"] == pytest.approx(second[name]["adapter"], abs=1e-3)


def test_missing_weights_are_a_row_not_a_crash(
    run_folder: Path, labelled: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    more = ("--model.embedder=nobody/nothing",)
    trainer.test(arguments(run_folder, labelled, tiny_models, tmp_path, *more))
    note = rows(tmp_path)["similarity"]["note"]
    assert note.startswith("skipped: embedder: nobody/nothing is not on this machine")
    assert "hf download nobody/nothing" in note


def test_without_shards_or_embedder_the_rest_is_measured(
    run_folder: Path, labelled: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    more = ("--model.embedder=null", "--model.tagger=null", "--data.shards=null")
    trainer.test(arguments(run_folder, labelled, tiny_models, tmp_path, *more))
    measured = rows(tmp_path)
    assert measured["similarity"]["note"] == (
        "skipped: no embedder; set model.embedder to a CLIP model"
    )
    assert measured["held_out_loss"]["note"] == "skipped: no held-out pictures"
    assert measured["attributes"]["note"] == "skipped: no tagger; set model.tagger to a WD tagger"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--data.prompts=[]", "data.prompts is empty; give at least one"),
        ("--data.seeds=[1,1]", "data.seeds holds one twice; each pair is measured once"),
        ("--data.batch_size=0", "data.batch_size 0 is too small: at least 1"),
        ("--model.adapter=nowhere", "input: no run folder or checkpoint nowhere"),
        ("--model.concept=elf", "model.concept: 'elf' is no tag of the tagger"),
        ("--data.shards=nowhere", "nowhere/prepared.json is missing: run `elf prepare"),
    ],
)
def test_mistakes_are_one_line(
    more: str,
    message: str,
    run_folder: Path,
    labelled: Path,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["test", *arguments(run_folder, labelled, tiny_models, tmp_path, more)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_checkpoint_is_named_by_the_model_not_by_ckpt_path(
    run_folder: Path, labelled: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    more = f"--ckpt_path={run_folder / 'checkpoints' / 'last.ckpt'}"
    with pytest.raises(ElfError, match=r"name the adapter by --model\.adapter"):
        trainer.test(arguments(run_folder, labelled, tiny_models, tmp_path, more))
