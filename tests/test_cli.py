"""The command table: quick, complete, and clear about mistakes."""

import importlib
import subprocess
import sys

import pytest

from elf import __version__, cli
from elf.errors import ElfError


def test_help_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, elf.cli; elf.cli.main(['--help']);"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "print(sorted(loaded - set(sys.stdlib_module_names) - {'elf', '__main__'}))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists_and_is_in_the_help(name: str) -> None:
    command = cli.COMMANDS[name]
    assert callable(getattr(importlib.import_module(command.module), command.function))
    assert f"  {name} " in cli.usage()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(arguments)
    assert "usage: elf COMMAND" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fitt", "no command 'fitt'; did you mean `elf fit`?"),
        ("xyzzy", "no command 'xyzzy'; `elf --help` lists the commands"),
    ],
)
def test_unknown_command(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([given])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"elf: error: {message}\n"


def test_an_interruption_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit"])
    assert stop.value.code == 130


def test_a_reader_that_goes_is_no_traceback() -> None:
    program = (
        "import sys; from elf import cli\n"
        "cli.run = lambda _: [print('x' * 99) for _ in range(9999)]\n"
        "cli.main(['curate'])"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_run_raises_for_callers_in_process() -> None:
    with pytest.raises(ElfError, match="no command 'nope'"):
        cli.run(["nope"])
