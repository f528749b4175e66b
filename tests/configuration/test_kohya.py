"""The table of kohya's flags: the page has it, and every key of it is one of `elf fit`."""

import re
from pathlib import Path

import pytest
import yaml

from elf import cli
from elf.configuration.kohya import KEYS
from elf.errors import ElfError

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("flag", "key"), KEYS.items())
def test_the_page_says_of_each_flag_what_the_message_says(flag: str, key: str) -> None:
    rows = [row for row in PAGE.splitlines() if re.search(rf"`--{flag}\b", row)]
    assert any(re.search(rf"`(--)?{re.escape(key)}\b", row) for row in rows), rows


def test_each_key_is_one_of_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    preset = Path(__file__).parents[2] / "configs" / "train" / "sd15-lora.yaml"
    with pytest.raises(SystemExit):
        cli.run(["fit", "--config", str(preset), "--ckpt_path", "last", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    for key in KEYS.values():
        value = printed
        for part in key.replace("init_args.", "").split("."):
            value = value.get("init_args", value)
            assert part in value, key
            value = value[part]


def test_a_flag_by_habit_is_refused_with_what_it_is_called_here() -> None:
    with pytest.raises(ElfError, match=r"kohya's network_dim is 'model\.adapter\.rank' here$"):
        cli.run(["fit", "--network_dim=8"])
