"""The command table: quick, complete, and clear about mistakes."""

import errno
import importlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from elf import __version__, cli
from elf.errors import ElfError, ElfWarning
from elf.files import write_atomic


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


def test_a_warning_is_a_line_and_a_librarys_says_where_it_is_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(_: list[str]) -> None:
        for message, category in (("mind the gap", ElfWarning), ("old", UserWarning)):
            sys.stderr.write(warnings.formatwarning(message, category, "x.py", 3, "call()"))

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # and back again
    monkeypatch.setattr("elf.curate.main", warned)
    cli.main(["curate"])
    assert capsys.readouterr().err == (
        "elf: warning: mind the gap\nx.py:3: UserWarning: old\n  call()\n"
    )


def test_run_raises_for_callers_in_process() -> None:
    with pytest.raises(ElfError, match="no command 'nope'"):
        cli.run(["nope"])


@pytest.mark.fault(7)
@pytest.mark.parametrize("at", [1, 2, 4, 7])
def test_a_disk_that_refuses_is_one_line_whoever_meets_it(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that handles no such error itself, on a disk that is full from some call on."""
    made: list[int] = []
    real = os.open

    def opened(path: str, flags: int, *more: object, **options: object) -> int:
        if flags & os.O_CREAT:
            made.append(1)
            if len(made) >= at:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, flags, *more, **options)  # type: ignore[arg-type]

    def command(arguments: list[str]) -> None:
        for number in range(8):
            write_atomic(tmp_path / f"{number}", "whole")

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr("elf.curate.main", command)
    with pytest.raises(SystemExit) as end:
        cli.main(["curate"])
    assert end.value.code == 2
    assert re.fullmatch(
        rf"elf: error: {re.escape(str(tmp_path))}/\.{at - 1}\.\w+\.tmp: the disk refuses to write "
        r"\(No space left on device\): make room or mend it, then start again; files that were "
        r"finished are whole\n",
        capsys.readouterr().err,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(n) for n in range(at - 1)]


def test_other_errors_of_files_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are mistakes of Elf's own."""

    def command(arguments: list[str]) -> None:
        open("/nowhere/at/all")

    monkeypatch.setattr("elf.curate.main", command)
    with pytest.raises(FileNotFoundError):
        cli.main(["curate"])
