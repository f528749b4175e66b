"""What the parser says, in one line (the real parser's messages are held by test_trainer)."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from elf.config_errors import explain, known_names


def nested(inner: str, key: str = "model") -> str:
    return (
        f'Parser key "{key}":\n  Does not validate against any of the Union subtypes\n'
        "  Errors:\n    - Problem with given class_path 'elf.modules.Module':\n"
        f"        {inner}\n    - Expected a <class 'NoneType'>\n"
        "  Given value: {'class_path': 'Module'}"
    )


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (nested("Option 'rnk' is not accepted"), "unknown key 'model.rnk'; did you mean 'rank'?"),
        (
            nested("Group 'adapter' does not accept option 'rnk'"),
            "unknown key 'model.adapter.rnk'; did you mean 'rank'?",
        ),
        ("unrecognized arguments: --zzz=3", "unknown key 'zzz'"),
        (
            nested("the following arguments are required: base"),
            "'model.base' is required: give it in a config (--config FILE) or as "
            "--model.base VALUE",
        ),
        (
            nested("Importing 'os.system' is not allowed, denied by the 'os' entry"),
            "model: 'os.system' must not be imported; a class_path can name what is in elf, "
            "lightning.pytorch, torch.optim, transformers.optimization",
        ),
        (
            nested("Expected a dot import path string: Modul"),
            "model: no class 'Modul' fits there; did you mean 'Module'?",
        ),
        (
            nested("Parser key \"adapter.rank\":\n  Expected a <class 'int'>. Got value: big"),
            "model.adapter.rank: expected int, got big",
        ),
        ("Parser key \"config\": File does not exist: '/x/y.yaml'", "no config file /x/y.yaml"),
        ("something\n   else", "something else"),
    ],
)
def test_messages(message: str, line: str) -> None:
    assert explain(message, [], ["rank", "Module"]) == line


def test_the_line_of_the_key_is_found_and_comments_are_not_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# rnk is not here\nmodel:\n  ranks: 3\n  rnk: 4 # rnk\n")
    message = nested("Option 'rnk' is not accepted")
    assert explain(message, ["missing.yaml", str(path)], []) == (
        f"unknown key 'model.rnk' in {path}, line 4"
    )


def test_known_names_reach_into_dataclasses() -> None:
    @dataclass
    class Inner:
        rank: int = 1

    class Outer:
        def __init__(self, inner: Inner | None = None, base: str = "") -> None: ...

    Outer.__init__.__annotations__.update(inner=Inner)
    assert known_names([Outer]) == {"Outer", "inner", "base", "rank"}
