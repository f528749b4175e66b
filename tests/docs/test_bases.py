"""What docs/bases.md shows is what happens."""

import re
from pathlib import Path

import pytest

from elf.errors import ElfError
from elf.modules import DiffusionModule

ROOT = Path(__file__).parents[2]


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/bases.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "sd15 epsilon ('text_encoder',)\n"


def test_configurations_beside_a_folder_are_refused() -> None:
    module = DiffusionModule("models/tiny/base", base_configs="models/tiny/base")
    with pytest.raises(ElfError, match="configs: models/tiny/base is no single file"):
        _ = module.base
