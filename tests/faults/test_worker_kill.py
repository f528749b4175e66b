"""Fault 12 of a real `elf fit`: a process that reads the shards is killed while it trains."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


def readers(pid: int) -> list[int]:
    """Return the processes that a run has forked."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"\0fit\0" in command:
            found.append(int(child))
    return found


@pytest.mark.fault(12)
def test_a_killed_reader_ends_the_run_with_one_line(training: list[str], tmp_path: Path) -> None:
    """Torch tells of it in whatever the main thread is doing, mostly a step."""
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "elf", "fit", *training, f"--trainer.default_root_dir={folder}",
        "--trainer.max_steps=5000", "--data.workers=1", "--trainer.limit_val_batches=0",
        "--trainer.log_every_n_steps=1",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
    ]  # fmt: skip
    with open(tmp_path / "log", "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        last = folder / "checkpoints" / "last.ckpt"
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        (reader,) = readers(process.pid)
        os.kill(reader, signal.SIGKILL)
        process.wait(timeout=60)
    finally:
        process.kill()
    said = (tmp_path / "log").read_text(errors="replace")
    assert process.returncode == 2, said
    assert said.splitlines()[-1] == (
        "elf: error: a process that reads the shards died (killed, perhaps for want of memory): "
        "start again with --ckpt_path last, or with a smaller data.workers"
    )
    assert "Traceback" not in said
