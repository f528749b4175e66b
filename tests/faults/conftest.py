"""Real commands on disks that fail, and killed: see ``failing_disk.c``."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """What a disk does at one operation: a letter of ``failing_disk.c``."""

    name: str
    letter: str
    harmless: bool = False  # the system may do it at any time: nobody is to notice


FAULTS = [Fault("kill", "k"), Fault("full", "f"), Fault("EIO", "e"),
          Fault("short", "s", harmless=True), Fault("EINTR", "i", harmless=True)]  # fmt: skip


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.name)
def fault(request):
    return request.param


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code (negative: the signal), whether it met the fault."""

    code: int
    hit: bool
    said: str

    @property
    def met(self):
        """Whether the fault was met: a process that it killed cannot say so."""
        return self.hit or self.code == -9

    def is_refusal(self):
        """Whether it ended with one line for the user, and no more."""
        lines = [line for line in self.said.splitlines() if line.startswith("elf: error: ")]
        return self.code == 2 and len(lines) == 1 and "Traceback" not in self.said


class Commands:
    """Starts `elf` commands, each in a process of its own."""

    def __init__(self, folder):
        disk = folder / "failing_disk.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", "-o", disk, HERE / "failing_disk.c", "-ldl"],
            check=True,
        )
        self._log = folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, HERE / "commands_in_forks.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"LD_PRELOAD": str(disk)},
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    def run(self, *arguments, below="", fault="", at=0, kill_after=None):
        """Run a command, perhaps with a fault, or killed after some seconds."""
        job = {"arguments": [str(argument) for argument in arguments], "log": str(self._log),
               "below": str(below), "fault": fault, "at": at, "kill_after": kill_after}  # fmt: skip
        print(json.dumps(job), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Ending(code % 100 if code >= 0 else code, code >= 100, self._log.read_text())

    def close(self):
        self._process.communicate()


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("needs gcc and Linux's LD_PRELOAD")
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()
