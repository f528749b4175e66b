"""Real commands on disks that fail, and killed: see ``failing_disk.c``."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave to the long column what the writers' own tests meet in the short one.

    Of commands it has a full disk and kills; test_file_faults.py has every fault.
    """
    for item in items:
        given = getattr(item, "callspec", None)
        if HERE in item.path.parents and given and "step" in given.params:
            if given.params["fault"].name not in ("kill", "full"):
                item.add_marker(pytest.mark.slow)


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
    """Starts `elf` commands, or what else a script serves, each in a process of its own."""

    def __init__(self, folder, script):
        disk = folder / "failing_disk.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", "-o", disk, HERE / "failing_disk.c", "-ldl"],
            check=True,
        )
        self._log = folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, HERE / script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"LD_PRELOAD": str(disk)},
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    def run(self, *arguments, below="", fault="", at=0, kill_after=None):
        """Run a command, perhaps with a fault, or killed after some seconds."""
        job = {"arguments": [str(argument) for argument in arguments], "log": str(self._log),
               "below": str(below), "fault": fault, "at": at, "kill_after": kill_after}  # fmt: skip
        self._log.write_text("")  # a process that is killed early has not emptied it
        print(json.dumps(job), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Ending(code % 100 if code >= 0 else code, code >= 100, self._log.read_text())

    def close(self):
        self._process.communicate()


def serve(tmp_path_factory, script):
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("needs gcc and Linux's LD_PRELOAD")
    commands = Commands(tmp_path_factory.mktemp("commands"), script)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """The real command."""
    yield from serve(tmp_path_factory, "commands_in_forks.py")


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """The writers of elf/files.py alone."""
    yield from serve(tmp_path_factory, "writers_in_forks.py")


@pytest.fixture(scope="session")
def make_run():
    """Return what makes a run of a tiny base in a folder, as if something had been learnt."""
    from elf.adapters import AdapterConfig
    from elf.modules import DiffusionModule

    def make(folder, base, seed):
        module = DiffusionModule(str(base), AdapterConfig(rank=2, targets=["*.attn2.to_q"]))
        module.configure_model()
        draw, state = torch.Generator().manual_seed(seed), module.state_dict()
        for key, tensor in state.items():
            if ".lora_B." in key:
                tensor.normal_(0, 0.2, generator=draw)
        content = {"state_dict": state}
        module.on_save_checkpoint(content)
        (folder / "checkpoints").mkdir(parents=True)
        torch.save(content, folder / "checkpoints" / "last.ckpt")

    return make


@pytest.fixture(scope="session")
def assert_same_run():
    """Return what requires a run in parts to have ended as the whole one, after so many steps."""
    from elf.training.checkpoints import read_checkpoint

    def check(whole, parts, steps):
        mine, theirs = (read_checkpoint(run / "checkpoints/last.ckpt") for run in (parts, whole))
        assert mine["global_step"] == steps
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
            assert_equal(mine[key], theirs[key], key)
        for path in (parts / "checkpoints").iterdir():  # fault 3: all loads, nothing half is left
            assert read_checkpoint(path)["global_step"] <= steps
        rows = [without_times(run / "metrics.csv") for run in (whole, parts)]
        assert rows[1] == rows[0]

    return check


def assert_equal(mine, theirs, where):
    """Require the same tensors and values, whatever they are nested in."""
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(mine, theirs), where
    elif isinstance(theirs, dict):
        assert mine.keys() == theirs.keys(), where
        for key, value in theirs.items():
            assert_equal(mine[key], value, f"{where}/{key}")
    elif isinstance(theirs, list | tuple):
        assert len(mine) == len(theirs), where
        for number, value in enumerate(theirs):
            assert_equal(mine[number], value, f"{where}/{number}")
    else:
        assert mine == theirs, where


def without_times(path):
    """Rows of metrics less what depends on the clock; columns stand as they came."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: value for name, value in row.items() if not ("second" in name or "time" in name)}
        for row in rows
    ]
