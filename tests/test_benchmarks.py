"""The scripts of benchmarks/ take from Elf what is there."""

import ast
import importlib.util
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(script: Path) -> None:
    taken = [
        (str(node.module), alias.name)
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "elf"
        for alias in node.names
    ]
    assert [pair for pair in taken if not is_there(*pair)] == []


def is_there(module: str, name: str) -> bool:
    """Whether a module has a name, or is a package with a module of it."""
    found = importlib.import_module(module)
    inside = hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}")
    return hasattr(found, name) or bool(inside)


def test_what_is_not_there_is_found() -> None:
    assert is_there("elf.adapters", "presets") and is_there("elf.adapters.presets", "UNET")
    assert not is_there("elf.adapters.presets", "preset") and not is_there("elf", "preset")
