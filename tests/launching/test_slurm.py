"""The job's script of docs/scaling.md in a real SLURM, where there is one.

It needs two idle nodes with two cards each, or with files in the place of cards: two slurmd on one
machine (``slurmd -N``), ``Gres=gpu:2`` in slurm.conf and ``File=/dev/zero`` in gres.conf will do.
"""

import csv
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elf.training.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 400


def slurm(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


def idle_nodes() -> int:
    found = slurm("sinfo", "-h", "-t", "idle", "-o", "%D") if shutil.which("sinfo") else ""
    return sum(map(int, found.split()))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(idle_nodes() < 2, reason="no SLURM with two idle nodes"),
]


def wait(what: Callable[[], bool]) -> None:
    while not what():
        time.sleep(0.5)


def test_the_pages_job_is_ended_requeued_and_goes_on(training: list[str], tmp_path: Path) -> None:
    page = (ROOT / "docs/scaling.md").read_text("utf-8")
    (script,) = (b for b in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "#SBATCH" in b)
    run, log = tmp_path / "run", tmp_path / "log"
    given = [*training, "--config=configs/hardware/nodes.yaml", f"--trainer.max_steps={STEPS}",
             "--trainer.log_every_n_steps=1"]  # fmt: skip
    for old, new in (
        (r"^run=.*", f"run={run}"),
        (r"--config configs/train\S+ --config configs/hardware/80gb.yaml", " ".join(given)),
        (r"--config configs/hardware/nodes.yaml ", ""),
        (r"04:00:00", "00:20:00"),
    ):
        script, count = re.subn(old, new, script, flags=re.MULTILINE)
        assert count == 1, old
    (tmp_path / "job.sh").write_text(script)
    job = slurm("sbatch", "--parsable", f"--output={log}", str(tmp_path / "job.sh"))

    def state() -> str:
        return slurm("squeue", "-h", "-j", job, "-o", "%T")

    try:
        wait(lambda: not state() or (run / "metrics.csv").is_file())
        slurm("scancel", "--signal=USR1", job)
        wait(lambda: state() in ("", "PENDING"))
        saved = re.search(r"elf: SIGUSR1: saved at step (\d+)", log.read_text())
        assert saved and 0 < int(saved[1]) < STEPS, log.read_text()
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # else after two minutes
        wait(lambda: not state())
    finally:
        slurm("scancel", job)
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == STEPS, log.read_text()
    with (run / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(STEPS))
