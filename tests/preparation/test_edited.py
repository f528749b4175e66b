"""Labels edited after `elf prepare`: the training says that it goes on with the old ones."""

import shutil
from pathlib import Path

import pytest

from elf.trainer import ElfCLI


def test_a_label_that_was_edited_after_preparing_is_told(
    training: list[str], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = shutil.copytree(labelled / "labels", tmp_path / "labels")
    arguments = [*training, f"--data.labels={labels}", f"--trainer.default_root_dir={tmp_path}"]

    def said() -> str:
        data = ElfCLI(arguments, run=False).datamodule
        data.setup("fit")
        return capsys.readouterr().out

    assert "were edited" not in said()
    first = sorted(labels.glob("*.txt"))[0]
    first.write_text("wood_elf, another crown", encoding="utf-8")
    assert (
        f"note: 1 of the labels in {labels} were edited after `elf prepare`, {first.name} among "
        "them, and are trained as they were; run `elf prepare --config …` with this config to take "
        "them in"
    ) in said()
    sorted(labels.glob("*.txt"))[1].unlink()
    assert "note: 2 of the labels in" in said()
    manifest = labels / "manifest.jsonl"
    manifest.write_text("[]\n" + manifest.read_text())  # which `elf prepare` refuses
    assert "were edited" not in said()
    manifest.unlink()  # as where only the shards were brought
    assert "were edited" not in said()
