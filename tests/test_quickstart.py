"""`elf quickstart` but for what it learns (tests/learning): own pictures, mistakes, drawings."""

import json
from pathlib import Path

import pytest
from PIL import Image

from elf import cli, quickstart


@pytest.mark.slow
def test_own_pictures(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path), "--pictures", str(labelled / "pictures")]
    cli.main(["quickstart", *arguments, "--steps", "2"])
    labels = list((tmp_path / "labels").glob("*.txt"))
    assert len(labels) == quickstart.COUNT
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["concept_rate_adapter"] is None  # nobody knows what they have in common
    assert summary["attributes_adapter"] > 0.9
    assert "leaf crown, with the trigger          –\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_file_that_paints_other_pictures_is_not_passed_over(
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(quickstart, "TOLERANCE", -1.0)
    arguments = ["--output", str(tmp_path), "--pictures", str(labelled / "pictures")]
    with pytest.raises(SystemExit):
        cli.main(["quickstart", *arguments, "--steps", "1"])
    assert "diffusers paints other pictures with this file than Elf" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--stpes", "3"], "unknown key 'stpes'; did you mean 'steps'?"),
        (["--adapter", "lokr"], "adapter: expected lora or dora, got lokr"),
        (["--pictures", str(tmp_path / "empty")], str(tmp_path / "empty")),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["quickstart", "--output", str(tmp_path / "o"), *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_the_drawn_pictures_differ_and_are_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        quickstart.draw_pictures(tmp_path / name)
    paths = sorted((tmp_path / "a").iterdir())
    contents = [path.read_bytes() for path in paths]
    assert len(set(contents)) == len(paths) == quickstart.COUNT
    assert contents == [(tmp_path / "b" / path.name).read_bytes() for path in paths]
    shapes = set()
    for path in paths:
        with Image.open(path) as image:
            shapes.add(image.size)
    assert shapes == set(quickstart.SIZES)
