"""Processes that torchrun or SLURM started: what they say of themselves, and how they meet."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from elf.errors import ElfError

FOREVER = timedelta(days=365)
"""How long a process waits for another's part; one that ends is noticed at once."""

_BY_HAND = ("bash", "interactive")  # names of jobs that are a shell, as Lightning has it
_OTHERS = ("MASTER_ADDR", "LSB_JOBID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


@dataclass(frozen=True)
class Launched:
    """What a launcher says of this process.

    Attributes:
        by: The launcher.
        rank: Of this process, among all.
        local_rank: Of this process, among those of its machine.
        processes: How many there are on each machine.
        machines: How many machines there are.
    """

    by: str
    rank: int
    local_rank: int
    processes: int
    machines: int

    @property
    def world(self) -> int:
        """How many processes there are in all."""
        return self.processes * self.machines


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """Return what a launcher says of this process; None if it is alone.

    Raises:
        ElfError: If the processes are spread unevenly, or SLURM's tasks were not started by srun.
    """
    found = None
    if "TORCHELASTIC_RUN_ID" in environment:  # also within SLURM, where srun starts torchrun
        found = _of_torchrun(environment)
    elif "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in _BY_HAND:
        found = _of_slurm(environment)
    return found if found is not None and found.world > 1 else None


def _of_torchrun(environment: Mapping[str, str]) -> Launched:
    world, here = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
    if world % here:
        raise ElfError(
            f"torchrun started {here} processes on this machine, of {world} in all: give every "
            "machine the same --nproc_per_node"
        )
    return Launched(
        "torchrun", int(environment["RANK"]), int(environment["LOCAL_RANK"]), here, world // here
    )


def _of_slurm(environment: Mapping[str, str]) -> Launched | None:
    tasks, machines = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", 1))
    if tasks == 1:
        return None
    if "SLURM_STEP_NUM_TASKS" not in environment:
        raise ElfError(
            f"SLURM gave this job {tasks} tasks, but this process is none of them: put srun before "
            "the command, or ask for one task"
        )
    each = environment.get("SLURM_NTASKS_PER_NODE")
    if each is None or int(each) * machines != tasks:
        raise ElfError(
            f"SLURM started {tasks} tasks on {machines} nodes, and not with --ntasks-per-node: "
            f"give it, with --nodes, so that every node has the same number (now {each or 'none'})"
        )
    return Launched(
        "srun", int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"]), int(each),
        machines,
    )  # fmt: skip


def trainer_options(
    devices: Any, num_nodes: int, environment: Mapping[str, str] = os.environ
) -> dict[str, int]:
    """Return how many devices and machines the trainer has, where a launcher has settled it.

    Args:
        devices: As configured; ``auto`` and 1, which the shipped configs say, are any number.
        num_nodes: As configured; 1, the default, is any number.
        environment: Of the process.

    Raises:
        ElfError: If the configuration says otherwise than the launcher, or there are to be several
            machines and no launcher.
    """
    settled = launched(environment)
    if settled is None:
        if num_nodes > 1 and not any(name in environment for name in _OTHERS):
            raise ElfError(
                f"trainer.num_nodes {num_nodes}: nothing here says which machine this is; start "
                "the command by torchrun or srun on each (docs/scaling.md)"
            )
        return {}
    asked = _number(devices)
    if asked not in (None, 1, settled.processes):
        raise ElfError(
            f"trainer.devices {devices}: {settled.by} started {settled.processes} processes on "
            f"this machine; leave trainer.devices out, or give {settled.processes}"
        )
    if num_nodes not in (1, settled.machines):
        raise ElfError(
            f"trainer.num_nodes {num_nodes}: {settled.by} started processes on "
            f"{settled.machines}; leave trainer.num_nodes out, or give {settled.machines}"
        )
    return {"devices": settled.processes, "num_nodes": settled.machines}


def own_environment() -> list[Any]:
    """Return what keeps Lightning from requeueing a job itself, where SLURM started it.

    It would save in the middle of a step, under a name that the next run takes without being told.
    """
    settled = launched()
    if settled is None or settled.by != "srun":
        return []
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    return [SLURMEnvironment(auto_requeue=False)]


def _number(devices: Any) -> int | None:
    """Return how many devices a value of ``trainer.devices`` asks for, if it says."""
    if isinstance(devices, list | tuple):
        return len(devices)
    if isinstance(devices, str):
        return int(devices) if devices.isdecimal() else None
    return devices if isinstance(devices, int) and devices >= 0 else None


@contextlib.contextmanager
def joined() -> Iterator[Launched | None]:
    """Let the processes of a launcher reach each other for as long as it lasts.

    For a command that Lightning's trainer does not run; where one process is alone, nothing is
    done.
    """
    here = launched()
    if here is None:
        yield None
        return
    import torch.distributed as dist

    if dist.is_initialized():
        yield here
        return
    if here.by == "srun":
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
    dist.init_process_group("gloo", rank=here.rank, world_size=here.world, timeout=FOREVER)
    try:
        yield here
    finally:
        dist.destroy_process_group()


def is_of_lost_process(error: BaseException) -> bool:
    """Whether an error came of another process of the run that ended or cannot be reached."""
    import torch.distributed as dist

    known = getattr(dist, "DistError", ())
    return isinstance(error, known) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


LOST = (
    "another process of this run has ended, or cannot be reached; if it has said why, that stands "
    "above. Start all again: what is done stays (`elf fit`: with --ckpt_path last)"
)
