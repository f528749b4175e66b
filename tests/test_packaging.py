"""One list of dependencies, said three times; and a wheel that has everything."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from elf.resources import shipped

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# distribution → the name it is imported by, where they differ
IMPORTED_AS = {
    "pyyaml": "yaml",
    "pillow": "PIL",
    "huggingface-hub": "huggingface_hub",
    "onnxruntime-gpu": "onnxruntime",
}
# used through other libraries, by a name in a YAML or for a file that it brings, not by an import
INDIRECT = {"tensorboard", "open-clip-torch", "schedulefree", "prodigyopt"}
WITH_GRADIO = {"starlette"}
WITH_TRANSFORMERS = {"tokenizers"}  # what its tokenizers are made of
WITH_LIGHTNING = {"packaging", "aiohttp"}  # what it compares versions with; of fsspec[http]
WITH_TORCH = {"triton"}  # where torch is built for CUDA; Elf does without it elsewhere


def requirement(line: str) -> str:
    return line.split(";")[0].strip()


def name(line: str) -> str:
    return re.split(r"[\[<>=!~; ]", line)[0]


def core() -> list[str]:
    """The dependencies on a machine with a GPU build of onnxruntime."""
    return [requirement(line) for line in PROJECT["dependencies"] if name(line) != "onnxruntime"]


def test_exactly_one_onnxruntime_on_every_platform() -> None:
    from packaging.markers import Marker

    lines = [line for line in PROJECT["dependencies"] if name(line).startswith("onnxruntime")]
    for platform, machine in (
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("win32", "AMD64"),
        ("darwin", "arm64"),
        ("darwin", "x86_64"),
    ):
        here = {"sys_platform": platform, "platform_machine": machine}
        chosen = [line for line in lines if Marker(line.split(";")[1]).evaluate(here)]
        assert len(chosen) == 1


def test_every_lower_bound_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    lines = [line for line in text.splitlines() if re.match(r'\s+"[a-z].*>=.*",', line)]
    assert len(lines) > 25
    assert [line for line in lines if "  # " not in line] == []


def test_conda_and_pip_files_say_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == core()
    assert "python" + PROJECT["requires-python"] in environment["dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        line.replace("onnxruntime-gpu", "onnxruntime") for line in core()
    ]


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    imported = set()
    for path in (ROOT / "elf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    imported -= set(sys.stdlib_module_names) | {"elf"}
    optional = {
        name(line)
        for extra in ("8bit", "curate", "serve")
        for line in PROJECT["optional-dependencies"][extra]
    }
    declared = {IMPORTED_AS.get(name(line), name(line)) for line in core()}
    brought = WITH_LIGHTNING | WITH_TORCH | WITH_TRANSFORMERS | WITH_GRADIO
    assert imported - optional - brought == declared - INDIRECT


@pytest.mark.parametrize("folder", ["configs", "models/tiny"])
def test_shipped_files_are_there(folder: str) -> None:
    assert shipped(folder).is_dir()


def test_a_wheel_has_configs_and_models(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("elf-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("configs", "models/tiny"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"elf/shipped/{path.relative_to(ROOT).as_posix()}" in names
    assert "elf/cli.py" in names
    assert not [entry for entry in names if entry.startswith("tests/")]


def test_an_installed_wheel_finds_its_files(tmp_path: Path) -> None:
    """Without a checkout beside it, the package's own copies are taken."""
    import shutil

    package = tmp_path / "elf"
    for module in ("__init__.py", "resources.py"):
        (package / module).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "elf" / module, package / module)
    shutil.copytree(ROOT / "configs", package / "shipped" / "configs")
    code = "from elf.resources import find; print(find('configs/train/quickstart.yaml'))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(result.stdout.strip()) == package / "shipped/configs/train/quickstart.yaml"
