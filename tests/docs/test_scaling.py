"""docs/scaling.md tells the truth: its commands are read as its launchers start them."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from elf import trainer
from elf.callbacks.termination import SIGNALS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
SCRIPT = next(block for block in BLOCKS if "#SBATCH" in block)
LINES = [line for block in BLOCKS if block != SCRIPT for line in block.splitlines()]
JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "wood_elf", "SLURM_NODELIST": "127.0.0.1",
       "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"}  # fmt: skip


class Parsed(trainer.ElfCLI):
    """Parses and instantiates; runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Parsed:
    """Read a command of the page as a process of a CPU."""
    if "models/sd15-lora/config.yaml" in arguments:  # what a run of it writes there
        arguments = [*arguments, "--trainer.default_root_dir=" + str(folder)]
        place = arguments.index("models/sd15-lora/config.yaml")
        arguments[place] = "configs/train/sd15-lora.yaml"
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
    more = ("--trainer.accelerator=cpu", "--trainer.precision=32-true")
    monkeypatch.chdir(ROOT)
    return Parsed([*arguments, *more])


def options(words: list[str]) -> dict[str, str]:
    return {
        key.lstrip("-"): value for key, value in itertools.pairwise(words)
        if key.startswith("--")
    }  # fmt: skip


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("torchrun")])
def test_what_torchrun_starts_is_as_many_processes(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = shlex.split(line)
    place = words.index("-m")
    given = options(words[:place])
    each, machines = int(given["nproc_per_node"]), int(given.get("nnodes", 1))
    environment = {
        "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
        "WORLD_SIZE": str(each * machines), "LOCAL_WORLD_SIZE": str(each), "RANK": "0",
        "LOCAL_RANK": "0", "GROUP_RANK": "0",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words[place + 1] == "elf"
    command, *arguments = words[place + 2 :]
    if command == "prepare":  # reads what fit reads
        command = "fit"
    cli = parsed([command, *arguments], monkeypatch, tmp_path)
    assert cli.trainer.num_devices == each and cli.trainer.num_nodes == machines
    assert cli.trainer.world_size == each * machines


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("elf")])
def test_what_elf_starts_itself_is_as_many_processes(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cli = parsed(shlex.split(line)[1:], monkeypatch, tmp_path)
    assert cli.trainer.num_devices == 2 and cli.trainer.world_size == 2


def test_the_jobs_script_asks_for_what_its_overlays_are_made_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", SCRIPT, re.MULTILINE))
    each, machines = int(asked["ntasks-per-node"]), int(asked["nodes"])
    tasks = str(each * machines)
    more = {"SLURM_NTASKS": tasks, "SLURM_STEP_NUM_TASKS": tasks, "SLURM_NNODES": str(machines),
            "SLURM_NTASKS_PER_NODE": str(each)}  # fmt: skip
    for name, value in (JOB | more).items():
        monkeypatch.setenv(name, value)
    text = re.search(r"elf (fit (?:.*\\\n)*.*)", SCRIPT)
    assert text is not None
    words = [word for word in shlex.split(text[1].replace("\\\n", " ")) if "more[@]" not in word]
    words[words.index("$run")] = str(tmp_path)
    cli = parsed(words, monkeypatch, tmp_path)
    data, config = cli.datamodule, cli.config["fit"]
    assert cli.trainer.world_size == each * machines
    # four pictures a step, as in all the cards' overlays
    assert data.batch_size * cli.trainer.world_size * cli.trainer.accumulate_grad_batches == 4
    assert config.trainer.num_nodes == 1, "the run's own configuration will do in one process"
    assert asked["signal"].startswith("USR1@") and "SIGUSR1" in {s.name for s in SIGNALS}
    assert "-eq 138 ]" in SCRIPT


def test_its_commands_are_all_tested() -> None:
    assert all(re.match(r"(elf|torchrun) ", line) for line in LINES)
    assert {line.split(" -m elf ")[1].split()[0] for line in LINES if "-m elf" in line} == {
        "predict", "prepare", "fit", "validate", "test"
    }  # fmt: skip
