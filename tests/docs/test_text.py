"""What docs/text.md says is so."""

import json
import re
from pathlib import Path

import yaml

from elf import cli
from elf.language.rows import parse_row
from elf.resources import shipped

PAGE = Path("docs/text.md").read_text(encoding="utf-8")


def test_its_rows_are_rows() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    kinds = [parse_row(line.encode(), "docs").kind for line in block.splitlines()]
    assert kinds == ["chat", "prompt", "text"]
    assert all(json.loads(line) for line in block.splitlines())


def test_its_commands_and_configs_are_there() -> None:
    for command in re.findall(r"^elf (\w+)", PAGE, re.M):
        assert command in cli.COMMANDS
    for path in re.findall(r"configs/[\w/.-]+\.yaml", PAGE):
        assert shipped(path).is_file(), path
    for name in re.findall(r"`(language-[\w-]+\.yaml)`", PAGE):
        assert shipped(f"configs/train/{name}").is_file(), name
    for path in re.findall(r"\]\(([\w./-]+?)(?:#.*?)?\)", PAGE):
        assert (Path("docs") / path).exists(), path


def test_its_keys_are_keys() -> None:
    config = yaml.safe_load(shipped("configs/train/language-lora.yaml").read_text())
    for section, key in re.findall(r"`(data|model)\.([\w.]+)[:`]", PAGE):
        place = config[section]["init_args"]
        for part in key.split("."):
            assert part in place, f"{section}.{key}"
            place = place[part]
