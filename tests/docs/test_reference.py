"""The configuration reference holds every key, with its type, its default and words."""

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from lightning.pytorch import Callback

import elf.callbacks
import elf.datamodules
import elf.modules
from elf.adapters import AdapterConfig
from elf.cli import COMMANDS
from elf.errors import ElfError
from elf.resources import shipped
from elf.training.identity import flatten

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))
reference = importlib.import_module("reference")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: make() for name, make in reference.PAGES.items()}


def keys(page: str) -> list[str]:
    return re.findall(r"^```\{confval\} (.*)$", page, re.MULTILINE)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (float | None, "number | null"),
        (None | str, "text | null"),
        (Literal["lora", "dora"], "`lora` | `dora`"),
        (list[str], "list of text"),
        (tuple[int, ...], "list of whole number"),
        (Iterable[float], "list of number"),
        (dict[str, float], "mapping of text to number"),
        (bool | list[str], "true or false | list of text"),
        (AdapterConfig | None, "`AdapterConfig` | null"),
        (Callable[[list[Any]], Callback], "class_path of a class: `Callback`"),
    ],
)
def test_types_are_words(hint: Any, words: str) -> None:
    assert reference.type_words(hint) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "`null`"),
        (True, "`true`"),
        (0.5, "`0.5`"),
        ("csv", "`csv`"),
        ("", "`''`"),
        ((1, 2), "`[1, 2]`"),
        ({}, "`{}`"),
        (flatten, "`elf.training.identity.flatten`"),
    ],
)
def test_defaults_are_yaml(value: Any, words: str) -> None:
    assert reference.default_words(reference.Option("a", Any, value, False, "")) == words


def test_what_must_be_given_and_what_is_long_says_so() -> None:
    assert reference.default_words(reference.Option("a", str, None, True, "")) == "must be given"
    long = reference.default_words(reference.Option("a", str, "x" * 999, False, ""))
    assert long.endswith("` … (`--print_config`)") and len(long) < 200


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("Rank of ``B A``,\n    a number", "Rank of `B A`, a number"),
        ("See :class:`~torch.nn.Linear`.", "See `Linear`."),
        ("a * b_c <d> [e]", r"a \* b\_c \<d\> \[e\]"),
        ("How often. Default: ``50``.", "How often."),
    ],
)
def test_docstrings_are_markdown(text: str, markdown: str) -> None:
    assert reference.as_markdown(text) == markdown


def test_each_command_is_there(pages: dict[str, str]) -> None:
    headings = re.findall(r"^## elf (\w+)$", pages["commands"] + pages["trainer"], re.MULTILINE)
    assert set(headings) == COMMANDS.keys() - {"prepare"}
    assert len(headings) == len(set(headings))


def test_a_command_without_a_parser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import elf.rename

    monkeypatch.delattr(elf.rename, "make_parser")
    with pytest.raises(ElfError, match=r"elf\.rename: no make_parser\(\), so that `elf rename`"):
        reference.command_parsers()


@pytest.mark.parametrize(
    ("page", "package", "base"),
    [
        ("models", elf.modules, object),
        ("data", elf.datamodules, object),
        ("callbacks", elf.callbacks, Callback),
    ],
)
def test_each_class_is_there(pages: dict[str, str], page: str, package: Any, base: type) -> None:
    headings = re.findall(r"^## (\w+)$", pages[page], re.MULTILINE)
    classes = {each.__name__ for each in reference.public(package, base)}
    assert classes and classes == set(headings) - {"Records"}


def test_no_key_stands_twice(pages: dict[str, str]) -> None:
    found = [key for page in pages.values() for key in keys(page)]
    assert len(found) > 400
    assert sorted({key for key in found if found.count(key) > 1}) == []


@pytest.mark.parametrize("name", ["sd15-lora", "sdxl-dora", "language-lora"])
def test_every_key_of_a_preset_is_there(pages: dict[str, str], name: str) -> None:
    found = {key for page in pages.values() for key in keys(page)}
    config = yaml.safe_load(shipped(f"configs/train/{name}.yaml").read_text("utf-8"))
    for part in ("model", "data"):
        kind = config[part]["class_path"].split(".")[-1]
        for key in flatten(config[part]["init_args"]):
            parts = key.split(".")
            known = {f"{kind}.{'.'.join(parts[: n + 1])}" for n in range(len(parts))}
            assert known & found, f"{kind}.{key}"
    for key in config["trainer"]:
        assert f"trainer.{key}" in found


def test_every_key_of_elfs_own_has_words(pages: dict[str, str]) -> None:
    silent = []
    for page in pages.values():
        for block in re.findall(r"^```\{confval\} (.*?)^```$", page, re.MULTILINE | re.DOTALL):
            name, _, rest = block.partition("\n")
            if not re.sub(r"^:\w+:.*$", "", rest, flags=re.MULTILINE).strip():
                silent.append(name)
    assert silent == []
