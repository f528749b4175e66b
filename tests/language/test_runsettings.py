"""How a run made its documents."""

from pathlib import Path

import pytest

from elf.errors import ElfError
from elf.language.runsettings import settings_of_run
from elf.language.settings import TextSettings


def test_a_runs_settings_are_taken_and_its_other_keys_are_not(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}", encoding="utf-8")
    data = {"files": ["a"], "length": 64, "train_on": "last", "truncation": "cut",
            "held_out": 0.2, "chat_template": str(template), "batch_size": 3}  # fmt: skip
    assert settings_of_run(data, 512) == TextSettings(64, "last", "cut", 0.2, "{{ messages }}")


def test_without_a_run_documents_are_what_the_model_can_hold() -> None:
    assert settings_of_run({}, 512) == TextSettings(512)
    assert settings_of_run({}, 4096) == settings_of_run({}, None) == TextSettings(1024)


def test_a_template_that_is_gone_is_named() -> None:
    with pytest.raises(ElfError, match=r"data\.chat_template: gone\.jinja cannot be read"):
        settings_of_run({"chat_template": "gone.jinja"}, None)
