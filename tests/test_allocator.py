"""Expandable segments are asked for in time, where they work, and never over the user's choice."""

import os
import subprocess
import sys

import pytest

from elf.allocator import NAMES, allocator_settings

ON = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize(
    ("system", "release", "expected"),
    [
        ("linux", "6.8.0-52-generic", ON),
        ("linux", "5.15.167.4-microsoft-standard-WSL2", {}),
        ("linux", "4.4.0-19041-Microsoft", {}),
        ("linux", "5.15.136-tegra", {}),
        ("win32", "11", {}),
        ("darwin", "24.1.0", {}),
    ],
)
def test_only_where_it_works(system: str, release: str, expected: dict[str, str]) -> None:
    assert allocator_settings({"HOME": "/"}, system, release) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["expandable_segments:False", "max_split_size_mb:128", ""])
def test_what_the_user_set_stays(name: str, value: str) -> None:
    assert allocator_settings({name: value}, "linux", "6.8.0") == {}


def after(command: str, first: str = "", **environment: str) -> str:
    """Return what torch is told by its environment when a command has imported it."""
    code = f"""
import os, platform, sys
sys.platform = "linux"
platform.release = lambda: "6.8.0"
{first}
from elf import cli
cli.COMMANDS = {{name: cli.Command("torch", "Size", "") for name in cli.COMMANDS}}
cli.run(["{command}"])
print(os.environ.get("PYTORCH_ALLOC_CONF"), "torch" in sys.modules)
import torch
settings = getattr(torch._C, "_accelerator_getAllocatorSettings", None)
print(settings() if settings else os.environ.get("PYTORCH_ALLOC_CONF", ""))
"""
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, **environment},
    )
    return result.stdout.strip().replace("\n", "; ")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is not set")
def test_torch_reads_it() -> None:
    setting = "expandable_segments:True"
    assert after("fit") == f"{setting} True; {setting}"
    assert after("curate") == after("fit", first="import torch") == "None True"
    mine = after("fit", PYTORCH_CUDA_ALLOC_CONF="expandable_segments:False")
    assert mine == "None True; expandable_segments:False"
