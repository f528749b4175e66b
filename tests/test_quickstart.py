"""`elf quickstart`: the whole loop, as a newcomer runs it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from elf import cli
from elf.quickstart import collect_photographs


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_whole_loop(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    cli.main(["quickstart", "--output", str(output), "--adapter", kind, "--steps", "40"])
    summary = json.loads((output / "summary.json").read_text())
    loss = summary["evaluation"]["held_out_loss"]
    assert loss["adapter"] < loss["base"]
    assert summary["export_picture_difference"] <= 1e-4
    assert summary["evaluation"]["weight_change"]["adapter"] > 0
    assert set(summary["evaluation"]) >= {"held_out_loss", "prompt_similarity"}
    for path in summary["paths"].values():
        assert Path(path).exists()
    printed = capsys.readouterr().out
    for step in ("elf predict", "elf prepare", "elf fit", "elf test", "elf export"):
        assert f"{step}:" in printed
    for path in summary["paths"].values():
        assert path in printed
    with pytest.raises(SystemExit):
        cli.main(["quickstart", "--output", str(output)])
    assert "holds a quickstart already; give another --output" in capsys.readouterr().err


def test_own_pictures(labelled: Path, tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path), "--pictures", str(labelled / "pictures")]
    cli.main(["quickstart", *arguments, "--steps", "2"])
    labels = list((tmp_path / "labels").glob("*.txt"))
    assert len(labels) == 25


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--stpes", "3"], "unknown key 'stpes'; did you mean 'steps'?"),
        (["--adapter", "lokr"], "adapter: expected Literal['lora', 'dora'], got lokr"),
        (["--pictures", str(tmp_path / "empty")], str(tmp_path / "empty")),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["quickstart", "--output", str(tmp_path / "o"), *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_photographs_come_in_several_shapes_and_all_differ(tmp_path: Path) -> None:
    count = collect_photographs(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert count == len(paths) == 25
    shapes = set()
    for path in paths:
        with Image.open(path) as image:
            shapes.add(round(image.width / image.height, 1))
    assert len(shapes) >= 4
    assert len({path.read_bytes() for path in paths}) == 25
