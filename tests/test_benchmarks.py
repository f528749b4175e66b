"""The scripts of benchmarks/ take from Elf what is there."""

import ast
import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(script: Path) -> None:
    taken = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "elf"
        for alias in node.names
    ]
    for module, name in taken:
        found = importlib.import_module(str(module))
        if not hasattr(found, name):  # a module of the package
            importlib.import_module(f"{module}.{name}")
