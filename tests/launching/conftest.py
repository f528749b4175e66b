"""Processes as torchrun and SLURM start them, without either."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def of_torchrun(rank: int, port: int) -> dict[str, str]:
    """The environment that torchrun gives to one of two processes on a machine."""
    return {
        "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "RANK": str(rank), "LOCAL_RANK": str(rank),
    }  # fmt: skip


def of_slurm(rank: int, port: int) -> dict[str, str]:
    """The environment that srun gives to a task on each of two machines."""
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "elf", "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2", "MASTER_PORT": str(port),
        "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0",
    }  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How two processes ended, and what each said."""

    codes: list[int]
    said: list[str]


class Pairs:
    """Starts commands, each in two processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, HERE / "processes_in_forks.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._answer() == "ready\n"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def run(
        self,
        environment: Callable[[int, int], dict[str, str]],
        *arguments: str,
        meanwhile: Callable[[list[int], list[Path]], None] | None = None,
    ) -> Ended:
        """Run a command in two processes; ``meanwhile`` gets their ids and logs."""
        port, logs = free_port(), [self._folder / f"log-{rank}" for rank in range(2)]
        job: list[dict[str, Any]] = [
            {"arguments": arguments, "environment": environment(rank, port), "rank": rank,
             "log": str(logs[rank])}
            for rank in range(2)
        ]  # fmt: skip
        for log in logs:
            log.unlink(missing_ok=True)
        print(json.dumps(job), file=self._process.stdin, flush=True)
        children = json.loads(self._answer())
        if meanwhile is not None:
            meanwhile(children, logs)
        codes = json.loads(self._answer())
        return Ended(codes, [log.read_text() for log in logs])

    def close(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    if sys.platform == "win32":
        pytest.skip("gloo and fork differ there")
    pairs = Pairs(tmp_path_factory.mktemp("pairs"))
    yield pairs
    pairs.close()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def torchrun_variables() -> Callable[[int, int], dict[str, str]]:
    return of_torchrun


@pytest.fixture(scope="session")
def slurm_variables() -> Callable[[int, int], dict[str, str]]:
    return of_slurm
