"""What launchers say of a process, and what of it is refused."""

from typing import Any

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch.distributed import DistNetworkError

from elf import cli
from elf.errors import ElfError
from elf.launcher import (
    Launched,
    is_of_lost_process,
    launched,
    own_environment,
    trainer_options,
)

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "3",
            "LOCAL_RANK": "1"}  # fmt: skip
SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS_PER_NODE": "2",
         "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "by"),
    [(TORCHRUN, "torchrun"), (SLURM, "srun"), (SLURM | TORCHRUN, "torchrun")],
    ids=["torchrun", "srun", "torchrun within a job"],
)
def test_a_launcher_says_who_a_process_is(environment: dict[str, str], by: str) -> None:
    here = launched(environment)
    assert here == Launched(by, rank=3, local_rank=1, processes=2, machines=2)
    assert here.world == 4
    assert trainer_options("auto", 1, environment) == {"devices": 2, "num_nodes": 2}
    assert trainer_options(2, 2, environment) == {"devices": 2, "num_nodes": 2}
    assert trainer_options([0, 1], 1, environment) == {"devices": 2, "num_nodes": 2}
    assert trainer_options(1, 1, environment) == {"devices": 2, "num_nodes": 2}
    assert trainer_options("-1", 1, environment) == {"devices": 2, "num_nodes": 2}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
        SLURM | {"SLURM_NTASKS": "1"},
        SLURM | {"SLURM_JOB_NAME": "interactive"},
    ],
    ids=["no launcher", "torchrun", "srun", "a shell"],
)
def test_a_process_alone_is_as_it_would_be_anywhere(environment: dict[str, str]) -> None:
    assert launched(environment) is None
    assert trainer_options(4, 1, environment) == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            TORCHRUN | {"WORLD_SIZE": "3"},
            r"^torchrun started 2 processes on this machine, of 3 in ",
        ),
        (
            {"SLURM_NTASKS": "2"},
            r"^SLURM gave this job 2 tasks, but .* none of them: put srun befo",
        ),
        (SLURM | {"SLURM_NNODES": "3"}, r"^SLURM started 4 tasks on 3 nodes.*\(now 2\)$"),
        (
            {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"},
            r"^SLURM started 2 tasks on 1 nodes, and not with --ntasks-per-node: .*\(now none\)$",
        ),
    ],
)
def test_processes_that_could_not_run_together_are_refused(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ElfError, match=message):
        launched(environment)


@pytest.mark.parametrize(
    ("devices", "num_nodes", "message"),
    [
        (4, 1, r"^trainer.devices 4: torchrun started 2 processes on this .* out, or give 2$"),
        ("3", 1, r"^trainer.devices 3: torchrun started 2"),
        ([0, 1, 2], 1, r"^trainer.devices \[0, 1, 2\]: torchrun started 2"),
        ("auto", 3, r"^trainer.num_nodes 3: torchrun started processes on 2; leave .*or give 2$"),
    ],
)
def test_a_configuration_that_says_otherwise_is_refused(
    devices: Any, num_nodes: int, message: str
) -> None:
    with pytest.raises(ElfError, match=message):
        trainer_options(devices, num_nodes, TORCHRUN)


def test_several_machines_without_a_launcher_are_refused_before_they_wait_for_each_other() -> None:
    with pytest.raises(ElfError, match=r"^trainer.num_nodes 2: nothing here says which machine"):
        trainer_options("auto", 2, {})
    assert trainer_options("auto", 2, {"MASTER_ADDR": "10.0.0.1"}) == {}


def test_lightning_requeues_nothing_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_environment() == []
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    (environment,) = own_environment()
    assert isinstance(environment, SLURMEnvironment) and not environment.auto_requeue


def test_errors_of_lost_processes_are_known() -> None:
    assert is_of_lost_process(DistNetworkError("the connection was reset"))
    closed = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    assert is_of_lost_process(RuntimeError(closed))
    assert not is_of_lost_process(RuntimeError("shapes do not match"))
    assert not is_of_lost_process(ValueError(closed))


@pytest.mark.parametrize("rank", ["0", "3"])
def test_what_all_found_the_first_says(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    for name, value in (SLURM | {"SLURM_PROCID": rank}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        cli.main(["fitt"])
    assert end.value.code == 2
    assert waited == ([] if rank == "0" else [cli.PATIENCE])
    assert capsys.readouterr().err.startswith("elf: error: no command 'fitt'")
