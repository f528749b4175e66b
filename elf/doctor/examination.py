"""All families at once, each in a process of its own: none can hang or take down another."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from elf.doctor.child import PROGRAM, failed
from elf.doctor.families import FAMILIES
from elf.doctor.finding import Finding, first_line
from elf.doctor.needs import Needs


def examine_all(families: Iterable[str], needs: Needs, timeout: float) -> Iterator[Finding]:
    """Yield what families find, in their order, each as soon as it is known.

    Args:
        families: Their names.
        needs: What a config needs.
        timeout: Seconds that a family may take at most.
    """
    with contextlib.ExitStack() as stack:
        # files, for a pipe's end would be awaited from what a killed process has started
        folder = Path(stack.enter_context(_temporary_folder()))
        started = {name: stack.enter_context(_started(name, needs, folder)) for name in families}
        begin = time.monotonic()
        for name, process in started.items():
            allowed = min(timeout, FAMILIES[name].seconds)
            try:
                process.wait(max(0.1, allowed - (time.monotonic() - begin)))
            except subprocess.TimeoutExpired:
                process.kill()
                reason = f"no answer within {allowed:g} s"
                yield from failed(name, reason, needs, not FAMILIES[name].passing)
            else:
                yield from _findings(name, process.returncode, needs, folder)


def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    # Windows removes no file that a process which was left behind holds open
    return tempfile.TemporaryDirectory(prefix="elf-doctor-", ignore_cleanup_errors=True)


@contextlib.contextmanager
def _started(name: str, needs: Needs, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    arguments = json.dumps([sys.path, name, needs.as_dict()])
    command = [sys.executable, "-c", PROGRAM, arguments]
    with (
        open(folder / f"{name}.json", "wb") as out,
        open(folder / f"{name}.txt", "wb") as err,
    ):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _findings(name: str, code: int, needs: Needs, folder: Path) -> list[Finding]:
    try:
        found = json.loads((folder / f"{name}.json").read_text("utf-8"))
        return [Finding(check, **rest) for check, rest in found]
    except (OSError, ValueError):
        said = (folder / f"{name}.txt").read_text("utf-8", errors="replace").strip().splitlines()
    reason = f"its process ended with {_ending(code)}"
    return failed(name, f"{reason}: {first_line(said[-1])}" if said else reason, needs)


def _ending(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"{code}"
