"""The command itself: no check can hang it, end it, or print into what it says."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from elf import cli
from elf.doctor.families import FAMILIES
from elf.errors import ElfError

CHEAP = ["--only=installed", "--only=storage", "--only=weights", "--only=hub", "--only=wandb"]


def data(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    if status:
        with pytest.raises(SystemExit) as stop:
            cli.main(["doctor", "--json", *arguments])
        assert stop.value.code == status
    else:
        cli.main(["doctor", "--json", *arguments])
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"elf", "works", "checks"}
    assert content["works"] == (status == 0)
    for check in content["checks"].values():
        assert set(check) == {"state", "found", "do", "facts"}
        assert (check["do"] == "") == (check["state"] == "good")
    checks: dict[str, Any] = content["checks"]
    return checks


def library(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a library of that name before the real one; the checks' processes see it, too."""
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(folder))


def test_this_machine_in_words_and_as_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    checks = data(capsys, *CHEAP, "--only=onnxruntime")
    names = [each for name in FAMILIES for each in FAMILIES[name].checks
             if f"--only={name}" in [*CHEAP, "--only=onnxruntime"]]  # fmt: skip
    assert list(checks) == names
    assert checks["python"]["facts"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert checks["onnxruntime"]["facts"]["provider"].endswith("ExecutionProvider")
    assert checks["disk.runs"]["facts"]["free_gib"] > 0
    cli.main(["doctor", *CHEAP])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Everything that Elf needs works."
    column = lines[0].index(checks["python"]["found"])
    for name in ("packages", "hub", "models"):
        line = next(line for line in lines if line[8:].startswith(name))
        assert line[column:] == checks[name]["found"], "below each other"
    assert "\x1b" not in "".join(lines)


def test_torch_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    checks = data(capsys, "--only=processors")
    assert list(checks) == ["torch", "gpu", "kernels"]
    assert checks["torch"]["facts"]["version"] == torch.__version__
    assert len(checks["gpu"]["facts"]["gpus"]) == torch.cuda.device_count()


@pytest.mark.slow
def test_everything_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    checks = data(capsys)
    assert list(checks) == [check for family in FAMILIES.values() for check in family.checks]
    assert checks["bitsandbytes"]["state"] == checks["gradio"]["state"] == "good"


def test_what_a_config_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = "--config=configs/train/quickstart.yaml"
    checks = data(capsys, "--only=weights", config, status=1)
    assert list(checks) == ["models", "config.models", "config.data"]
    assert checks["config.models"]["state"] == "good"
    assert checks["config.data"]["state"] == "broken"
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--only=weights", config])
    assert capsys.readouterr().out.splitlines()[-1] == "Not in order: config data."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('libcudart.so.13: cannot open')", "OSError: libcudart.so.13: cannot open"),
        ("import os; os.abort()", "its process ended with SIGABRT"),
        ("import sys; sys.exit('no licence')", "its process ended with 1: no licence"),
        ("import time; time.sleep(600)", "no answer within 5 s"),
    ],
)
def test_a_library_that_fails_is_a_line(
    text: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    library(tmp_path, "onnxruntime", text, monkeypatch)
    limit = ["--timeout=5"] * ("sleep" in text)
    checks = data(capsys, "--only=onnxruntime", *limit, status=1)
    assert checks["onnxruntime"]["state"] == "broken"
    assert checks["onnxruntime"]["found"] == f"could not be tried: {reason}"
    assert checks["onnxruntime"]["do"] == 'see what `python -c "import onnxruntime"` says'


def test_one_that_hangs_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does what it started, which lives on and holds what it prints to open."""
    program = f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import os, time; print(os.getpid(), "
                          "file=open({str(tmp_path / "pid")!r}, 'w')); time.sleep(60)"])
        time.sleep(60)
        """
    library(tmp_path, "torch", program, monkeypatch)
    checks = data(capsys, "--only=processors", "--only=weights", "--timeout=15", status=1)
    assert checks["torch"]["found"] == "could not be tried: no answer within 15 s"
    assert checks["gpu"]["state"] == checks["kernels"]["state"] == "note"
    assert checks["gpu"]["found"] == "not known: see torch"
    assert checks["models"]["state"] == "good"
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_what_a_library_prints_is_no_part_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
        import os
        print("welcome", flush=True)
        os.write(1, b"to a library\\n")
        __version__ = "1.2"

        def list_datasets():
            return ["one", "two"]
        """
    library(tmp_path, "fiftyone", text, monkeypatch)
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    checks = data(capsys, "--only=fiftyone")
    assert checks["fiftyone"]["facts"]["datasets"] == 2
    assert "its own database answers" in checks["fiftyone"]["found"]


def test_a_database_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def list_datasets(): raise ConnectionError('no mongod within 5 s')"
    library(tmp_path, "fiftyone", text, monkeypatch)
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    checks = data(capsys, "--only=fiftyone", status=1)
    said = "its database does not start: ConnectionError: no mongod within 5 s"
    assert said in checks["fiftyone"]["found"]


def test_it_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; from elf import cli; cli.run(['doctor', '--only=hub']);"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "print(sorted(loaded - set(sys.stdlib_module_names) - {'elf', '__main__'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jsn"], "doctor: unrecognized arguments: --jsn; `elf doctor --help` lists the options"),
        (["--only=gpu"], "doctor: argument --only: invalid choice: 'gpu'"),
        (["--timeout=0"], "--timeout: 0 must be above 0, in seconds"),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    with pytest.raises(ElfError) as error:
        cli.run(["doctor", *arguments])
    assert message in str(error.value)
