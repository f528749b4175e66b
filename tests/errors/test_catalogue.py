"""Each mistake of the catalogue, made through the real command: one line, and it is that one.

A page of ``catalogue/`` is read from top to bottom, as a terminal is: what is wrong, what was done
to the disk, the command as it is typed in a checkout, and what it prints. A new row needs no code.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from elf import cli

WAY_OUT = re.compile(
    r";|: (run|name|leave|set|convert|train|put|start|take|for) |\b(run|give|take|lower|belong)\b|"
    r"did you mean|"
    r"expected |Expected a|elf --help|has to be|accepts|valid input|needs|roles are|"
    r"at least|at most|between|within|must|beyond|below|multiple of|no share|"
    r"is a (share|probability)|"
    r"knows$|is it the|: (save|prepare|mend)|has the name of|not offered: "
)
"""What a line says that can be done, or what is right instead: values, bounds."""


def test_one_line_and_no_more(
    scene: Any, set_up: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = set_up(scene)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert scene.pattern.fullmatch(lines[-1]), f"\n{lines[-1]}\n{scene.line}"
    assert [line for line in lines if line.startswith("elf: error: ")] == lines[-1:]
    assert not [line for line in lines if "Traceback" in line]


def test_each_line_says_what_and_where_and_the_way_out(scenes: list[Any]) -> None:
    assert [scene.line for scene in scenes if not scene.line.startswith("elf: error: ")] == []
    said = {scene: scene.line.removeprefix("elf: error: ") for scene in scenes}
    assert [line for scene, line in said.items() if not names_a_place(scene, line)] == []
    assert [line for line in said.values() if not WAY_OUT.search(line)] == []
    reprs = r"<class|Namespace\(|\bErrno\b|Traceback|object at 0x|\bNone\b|PosixPath|\\n"
    assert [line for line in said.values() if re.search(reprs, line)] == []


def names_a_place(scene: Any, line: str) -> bool:
    """Whether a line names what its reader typed, a file, or a key of a config."""
    typed = set(re.findall(r"[\w-]+", f"{scene.command} {' '.join(scene.steps)}"))
    key = re.match(r"'?[\w.\[\]]+'?(: |, | )", line)
    return bool(key) or bool(typed & set(re.findall(r"[\w-]+", line)))


def test_no_scene_stands_twice(scenes: list[Any]) -> None:
    names = [(scene.page, scene.title) for scene in scenes]
    assert len(set(names)) == len(names)
    done = [(scene.there, scene.steps, scene.command) for scene in scenes]
    assert len(set(done)) == len(done)


IN_A_PROCESS = [
    ("elf", "A slip of the keyboard."),
    ("rename", "The folder is not there."),
    pytest.param("configs", "A key with a slip, in a file.", marks=pytest.mark.slow),
    pytest.param("export", "The input is not there.", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("page", "title"), IN_A_PROCESS)
def test_as_a_process(
    page: str, title: str, scenes: list[Any], set_up: Callable[..., list[str]]
) -> None:
    (scene,) = (scene for scene in scenes if (scene.page, scene.title) == (page, title))
    arguments = set_up(scene)
    result = subprocess.run(
        [sys.executable, "-m", "elf", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert scene.pattern.fullmatch(result.stderr.splitlines()[-1])
    assert "Traceback" not in result.stderr
