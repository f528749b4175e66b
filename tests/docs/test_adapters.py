"""docs/adapters.md tells the truth: its configurations, presets and initialisations."""

import copy
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from elf import adapters
from elf.adapters import AdapterConfig, presets
from elf.adapters.config import INITIALISATIONS, REFUSED
from elf.errors import ElfError
from elf.tiny import base

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def test_the_first_block_is_the_default() -> None:
    assert BLOCKS[0] == asdict(AdapterConfig())
    assert list(BLOCKS[0]) == [field.name for field in fields(AdapterConfig)]


def test_the_other_blocks_train() -> None:
    pipeline = base.pipeline()
    networks = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    for block in BLOCKS[1:]:
        records = adapters.inject_all(copy.deepcopy(networks), AdapterConfig(**block))
        assert all(record.modules for record in records.values())


def test_the_table_of_targets_is_the_presets() -> None:
    rows = re.findall(r"^\| `(attention[a-z+]*)` \| (.*?) \|", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(presets.UNET)
    names: list[str] = []
    for name, text in rows:
        names += re.findall(r"`([\w.]+)`", text)
        assert tuple(names) == presets.UNET[name]


def test_all_initialisations_are_there() -> None:
    for name in INITIALISATIONS:
        assert f"`{name}`" in PAGE
    for name in REFUSED:
        assert f"`{name}`" in PAGE
        with pytest.raises(ElfError):
            adapters.validate(AdapterConfig(init=name))
