"""Expandable segments under CUDA graphs; run with `pytest -m gpu`.

The allocator is chosen once in a process, so each choice trains in one of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from elf.allocator import NAMES, allocator_settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not allocator_settings({}), reason="this system has no expandable segments"),
]

SCRIPT = """
import gc, json, sys
import torch
from elf import trainer

folder, *arguments = sys.argv[1:]
torch.cuda.set_per_process_memory_fraction(0.5)
cli = trainer.run("fit", arguments)
passes, update = cli.model.stepper.passes, cli.model.stepper.update
settings = torch.cuda.memory._snapshot()["allocator_settings"]
found = {
    "expandable": settings["expandable_segments"],
    "segments": sorted({bool(each["is_expandable"]) for each in torch.cuda.memory_snapshot()}),
    "passes": [passes.captures, passes.replays, passes.eager],
    "update": update.replays,
    "peak": torch.cuda.max_memory_reserved(),
}
del cli, passes, update
gc.collect()
torch.cuda.empty_cache()
found["left"] = torch.cuda.memory_reserved()
print("FOUND", json.dumps(found))
"""


def trained(arguments: list[str], folder: Path, setting: str) -> dict[str, Any]:
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            str(folder),
            *arguments,
            f"--trainer.default_root_dir={folder}",
            "--trainer.accelerator=cuda",
            "--trainer.devices=1",
            "--trainer.precision=16-mixed",
            "--trainer.max_steps=30",
            "--trainer.val_check_interval=9",
            "--trainer.num_sanity_val_steps=0",
            "--trainer.log_every_n_steps=1",
            "--model.optimizer.init_args.fused=true",
        ],
        capture_output=True,
        text=True,
        env={**clean, "PYTORCH_ALLOC_CONF": setting},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (line,) = [each for each in result.stdout.splitlines() if each.startswith("FOUND ")]
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    losses = (folder / "metrics.csv").read_text().splitlines()
    place = losses[0].split(",").index("train/loss")
    column = [line.split(",")[place] for line in losses[1:]]
    return found | {"losses": torch.tensor([float(each) for each in column if each])}


@pytest.mark.parametrize(
    "more",
    [
        [],
        # with dropout it would not be captured
        ["--model.gradient_checkpointing=[up_blocks.*]", "--model.adapter.dropout=0"],
        ["--model.adapter.kind=dora", "--trainer.accumulate_grad_batches=2"],
    ],
    ids=["lora", "checkpointing", "dora"],
)
def test_captured_steps_are_the_same_with_expandable_segments(
    more: list[str], training: list[str], tmp_path: Path
) -> None:
    """Buckets change from step to step; a validation and sample pictures come in between."""
    arguments = [*training, *more]
    on = trained(arguments, tmp_path / "on", "expandable_segments:True")
    off = trained(arguments, tmp_path / "off", "expandable_segments:False")
    assert (on["expandable"], off["expandable"]) == (True, False)
    assert on["passes"] == off["passes"]
    captures, replays, eager = on["passes"]
    assert captures >= 2 and replays >= 30 and eager == 0
    assert on["update"] == 30
    assert len(on["losses"]) == len(off["losses"]) == 30
    mean = (on["losses"] - off["losses"]).abs().mean() / off["losses"].mean()
    assert mean < 1e-2, "fp16's noise"
    print(more, "peak MiB:", on["peak"] >> 20, "instead of", off["peak"] >> 20)
    print(more, "left MiB:", on["left"] >> 20, "instead of", off["left"] >> 20)


REPEATED = """
import torch
from elf.stepping.capture import Recorder

device = torch.device("cuda", torch.cuda.current_device())
record = Recorder(device)
weight = torch.randn(1024, 1024, device=device)
for turn in range(4):
    graphs = []
    for size in (256, 4096, 1024, 8192, 512):
        source = torch.randn(size, 1024, device=device)
        out = torch.zeros(size, 1024, device=device)

        def function(source=source, out=out):
            out.copy_(torch.relu(source @ weight) @ weight + source)

        graphs.append((record(function, warm_up_in_pool=turn + len(graphs) > 0), source, out))
    torch.cuda.empty_cache()  # no page of a living graph goes
    for replay, source, out in graphs:
        out.zero_()
        replay()
        expected = torch.relu(source @ weight) @ weight + source
        assert torch.allclose(out, expected, rtol=1e-3, atol=1e-2), (turn, len(source))
    torch.cuda.synchronize()
    graphs.clear()
    del replay, source, out, function, expected
    record.forget()
    torch.cuda.empty_cache()
    print("RESERVED", torch.cuda.memory_reserved())
def fails():
    torch.ones(1, device=device).item()
try:
    record(fails)
except RuntimeError:
    pass
assert torch.rand(4, device=device).isfinite().all()
again = torch.zeros(1 << 20, device=device)
replay = record(lambda: again.add_(1))
again.zero_()
replay()
assert (again == 1).all()
"""


def test_graphs_are_captured_given_up_and_captured_again() -> None:
    """As sample pictures do, and as a capture does that fails; memory does not grow by rounds."""
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    result = subprocess.run(
        [sys.executable, "-c", REPEATED],
        capture_output=True,
        text=True,
        env={**clean, **allocator_settings({})},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    reserved = [int(line.split()[1]) for line in result.stdout.splitlines()]
    assert len(reserved) == 4
    assert max(reserved[1:]) <= reserved[0] + (64 << 20)
