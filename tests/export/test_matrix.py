"""The table of docs/export.md says what each form makes of each adapter, as tests find it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elf.adapters import AdapterConfig
from elf.errors import ElfError
from elf.export import export_diffusers
from elf.export.command import export_kohya, write_merged
from elf.export.peft_form import export_peft
from elf.export.trained import read_trained

LINEAR, ALL = "attention+feedforward+projections", "attention+feedforward+convolutions"
TEXT = "attention+feedforward"
ADAPTERS = {
    "LoRA": AdapterConfig(rank=4, alpha=3, targets=LINEAR),
    "LoRA with convolutions": AdapterConfig(rank=4, alpha=3, targets=ALL),
    "LoRA of text encoders, too": AdapterConfig(rank=4, alpha=3, text_targets=TEXT),
    "rsLoRA": AdapterConfig(rank=4, alpha=3, rslora=True),
    "DoRA, output axis": AdapterConfig("dora", 4, 3, ALL, text_targets=TEXT),
    "DoRA, input axis": AdapterConfig("dora", 4, 3, ALL, axis="input", text_targets=TEXT),
}
DOCS = Path("docs/export.md")
START, END = "<!-- matrix -->\n\n", "\n<!-- end of matrix -->"


def outcome(write: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    try:
        write()
    except ElfError as error:
        assert "model.adapter.axis" in str(error) or "max_error" in str(error)
        return "refused" if "axis: a DoRA" in str(error) else "converted, or refused"
    assert "near what was trained" not in capsys.readouterr().out
    return "exact"


def row(made: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    trained, base = read_trained(made.folder), str(made.base)
    forms: list[Callable[[], Any]] = [
        lambda: export_diffusers(made.folder, folder / "d", "float32"),
        lambda: export_kohya(trained, base, folder / "k", "float32"),
        lambda: export_peft(trained, folder / "p", "float32"),
        lambda: write_merged(trained, base, folder / "m", "float32"),
    ]
    return [outcome(form, capsys) for form in forms]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_table_says_what_is(
    family: str,
    name: str,
    run: Callable[[str, AdapterConfig], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = row(run(family, ADAPTERS[name]), tmp_path / "out", capsys)
    table = DOCS.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert f"| {' | '.join([name, *found])} |" in table.splitlines()
