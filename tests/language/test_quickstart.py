"""`elf quickstart --model language` but for what it learns (tests/learning)."""

import json
from pathlib import Path

import pytest

from elf import cli, languagequickstart


@pytest.fixture
def untrained(tiny_language: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the model that ships with Elf, one that knows nothing."""
    monkeypatch.setattr(languagequickstart, "find", lambda _: str(tiny_language))
    monkeypatch.setattr(languagequickstart, "BASE", str(tiny_language))
    monkeypatch.setattr(languagequickstart, "ROWS", 40)
    monkeypatch.setattr(languagequickstart, "ASKED", 4)


@pytest.mark.usefixtures("untrained")
def test_the_whole_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["quickstart", "--model=language", f"--output={tmp_path}", "--steps=2",
              "--adapter=dora"])  # fmt: skip
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["adapter"] == "dora" and summary["steps"] == 2
    assert summary["export_logit_difference"] < 1e-4
    assert summary["evaluation"]["perplexity"]["adapter"] > 1
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    printed = capsys.readouterr().out
    assert "right answers, in elvish          0% → 0%\n" in printed
    assert "5. elf test: base against adapter" in printed


@pytest.mark.usefixtures("untrained")
def test_a_folder_with_which_peft_computes_otherwise_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(languagequickstart, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit):
        cli.main(["quickstart", "--model=language", f"--output={tmp_path}", "--steps=1"])
    assert "peft computes otherwise with this folder than Elf does" in capsys.readouterr().err


def test_pictures_are_of_no_use_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["quickstart", "--model=language", f"--output={tmp_path}", "--pictures=x"])
    assert "pictures: a language model learns of none; leave it out" in capsys.readouterr().err
