"""docs/data.md tells the truth: its YAML is read, its figures and names are those of the code."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from elf.datamodules import ShardDataModule
from elf.preparation.buckets import assign, make_buckets
from elf.preparation.sets import PictureSet

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text()
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
@pytest.mark.parametrize("config", ["sd15-lora", "sd15-dora"])
def test_each_snippet_can_be_laid_over_a_shipped_config(tmp_path, config, number):
    from elf.trainer import ElfCLI

    path = tmp_path / "sets.yaml"
    path.write_text(SNIPPETS[number])
    shipped = ROOT / "configs" / "train" / f"{config}.yaml"
    data = ElfCLI(["--config", str(shipped), "--config", str(path)], run=False).datamodule
    assert isinstance(data, ShardDataModule)
    keys = set(re.findall(r"(\w+):", re.sub(r"#.*", "", SNIPPETS[number]))) - {"data", "init_args"}
    assert keys
    for key in keys & {field.name for field in fields(PictureSet)}:
        given = [*data.settings.all_sets(), data]
        assert any(getattr(each, key, None) not in (None, False) for each in given)


def test_there_is_a_snippet_for_each_subject():
    assert len(SNIPPETS) == 6
    first = SNIPPETS[0]
    assert "regularisation: true" in first and "flip: true" in first and "repeats: 10" in first


def test_every_key_of_a_set_is_in_the_table():
    table = PAGE.split("| key of a set |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE))))
    assert named == {field.name for field in fields(PictureSet)}


def test_the_figures_of_buckets_are_right():
    portrait = (1080, 1920)
    assert assign(portrait, make_buckets(1024)) == (768, 1344)
    assert assign(portrait, make_buckets(1024, max_side=1024)) == (576, 1024)
    assert "at 768 × 1344" in PAGE and "at 576 × 1024, with 43 % fewer" in " ".join(PAGE.split())
    assert round(1 - 576 * 1024 / (768 * 1344), 2) == 0.43


def test_the_files_that_it_names_are_real():
    for path in re.findall(r"configs/[\w/.-]+\w", PAGE):
        assert (ROOT / path).exists(), path
