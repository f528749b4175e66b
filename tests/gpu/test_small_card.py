"""The user's card: what `elf prepare` and `elf fit` do by the presets fits a card of 8 GB.

Run with `pytest -m gpu tests/gpu/test_small_card.py -s`, which prints what each run took. Networks
of full size with random weights; a card of 8 GB has about 7.2 GiB for a program, so torch gets no
more of whatever card this is. Each run is a process, with the allocator that `elf` chooses on Linux
(expandable segments) or with torch's own, which Windows and WSL have. What Elf warns of is an
error: nothing is left out, nothing runs uncaptured.
"""

import csv
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from elf.allocator import NAMES, SETTING

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ROOM = 7.2  # GiB
STEPS, SHAPES = 20, 3
RANDOM = runpy.run_path("benchmarks/random_models.py")
ALLOCATORS = {"expandable": {NAMES[0]: SETTING}, "plain": {}}

SCRIPT = """
import json, sys, warnings
import torch
from elf import trainer

room, command, *arguments = sys.argv[1:]
total = torch.cuda.get_device_properties(0).total_memory
torch.cuda.set_per_process_memory_fraction(float(room) * 2**30 / total)
warnings.filterwarnings("error", category=UserWarning, module="elf")

def short(device, asked, *_):
    held, used = (get() >> 20 for get in (torch.cuda.memory_reserved, torch.cuda.memory_allocated))
    print(f"{asked >> 20} MiB asked for; {held} MiB held, {used} used", file=sys.stderr)

torch._C._cuda_attach_out_of_memory_observer(short)
if command == "prepare":
    trainer.prepare(arguments)
elif command == "test":
    trainer.test(arguments)
    print("FOUND", torch.cuda.max_memory_reserved() / 2**30)
else:
    cli = trainer.run("fit", arguments)
    passes, update = cli.model.stepper.passes, cli.model.stepper.update
    found = {
        "step": cli.trainer.global_step, "eager": passes.eager, "captures": passes.captures,
        "updates": update.replays, "peak": torch.cuda.max_memory_reserved() / 2**30,
    }
    print("FOUND", json.dumps(found))
"""


def run(command: str, arguments: list[str], allocator: str) -> str:
    """Run a command on a small card, and return what it printed."""
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOM), command, *arguments],
        capture_output=True,
        text=True,
        env=clean | ALLOCATORS[allocator],
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def bases() -> dict[str, list[str]]:
    """Arguments of runs, by family: base, pictures, shards; filled by `prepared`."""
    return {}


def prepared(family: str, bases: dict[str, list[str]], folder: Path) -> list[str]:
    """Make a base and pictures of three shapes, let `elf prepare` work, and return arguments."""
    if family not in bases:
        side = 512 if family == "sd15" else 1024
        long, short = side * 19 // 16, side * 13 // 16
        sizes = [(side, side), (long, short), (short, long)] * 4
        pictures = RANDOM["write_pictures"](folder / "pictures", sizes)
        bases[family] = [
            f"--model.base={RANDOM['write_base'](folder / 'base', family, 'cuda')}",
            f"--data.sets=[{{pictures: {pictures}}}]",
            f"--data.shards={folder / 'shards'}",
        ]
        torch.cuda.empty_cache()
        run("prepare", [*preset(f"{family}-lora", folder), *bases[family]], "plain")
    return bases[family]


def preset(name: str, folder: Path) -> list[str]:
    """Return the arguments for a preset on 8 GB, with pictures at steps 0 and 20 and fast ones.

    Each denoising step takes the same memory.
    """
    config = yaml.safe_load(Path(f"configs/train/{name}.yaml").read_text())
    (samples,) = (
        each["init_args"]
        for each in config["trainer"]["callbacks"]
        if each["class_path"] == "SamplePictures"
    )
    samples["every_n_steps"] = STEPS
    samples["generation"]["steps"] = 5
    norms = {"norms_every_n_steps": STEPS // 2}
    config["trainer"]["callbacks"].append({"class_path": "TrainingRecorder", "init_args": norms})
    for key in ("pictures", "labels"):  # the sets' own
        del config["data"]["init_args"][key]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return [f"--config={path}", "--config=configs/hardware/8gb.yaml"]


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("name", ["sd15-lora", "sd15-dora", "sdxl-lora", "sdxl-dora"])
def test_a_preset_fits(
    name: str,
    allocator: str,
    bases: dict[str, list[str]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    family = name.split("-")[0]
    arguments = prepared(family, bases, tmp_path_factory.mktemp(family))
    folder = tmp_path / "run"
    start = time.perf_counter()
    printed = run(
        "fit",
        [
            *preset(name, tmp_path),
            *arguments,
            f"--trainer.default_root_dir={folder}",
            "--trainer.accelerator=cuda",
            f"--trainer.max_steps={STEPS}",
        ],
        allocator,
    )
    (line,) = [each for each in printed.splitlines() if each.startswith("FOUND ")]
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    peaks = [*figures(folder, "memory/peak_gib"), found["peak"]]
    print(
        f"\n{name}, {allocator}: most GiB reserved, by 10 steps and at the end, "
        f"{[round(each, 2) for each in peaks]}; {time.perf_counter() - start:.0f} s"
    )
    assert found["step"] == STEPS
    assert found["eager"] == 0, "a step was not captured"
    assert found["captures"] >= SHAPES
    assert found["updates"] == STEPS
    assert max(peaks) <= ROOM
    sheets = [path.name for path in sorted((folder / "samples").glob("*.png"))]
    assert sheets == ["step-000000.png", f"step-{STEPS:06}.png"]
    assert list((folder / "adapter").glob("*.safetensors"))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_evaluation_fits(
    family: str,
    bases: dict[str, list[str]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With CLIP and DINOv2 of full size, two pictures at a time, as data.batch_size says."""
    arguments = prepared(family, bases, tmp_path_factory.mktemp(family))
    (base,) = [each.partition("=")[2] for each in arguments if each.startswith("--model.base")]
    (shards,) = [each for each in arguments if each.startswith("--data.shards")]
    side = 512 if family == "sd15" else 1024
    start = time.perf_counter()
    printed = run(
        "test",
        [
            "--config=configs/eval/image.yaml",
            "--config=configs/eval/quick.yaml",
            f"--model.base={base}",
            f"--model.adapter={RANDOM['write_adapter'](Path(base), tmp_path / 'adapter')}",
            f"--model.models.clip={RANDOM['write_clip'](tmp_path / 'clip', 'cuda')}",
            f"--model.models.dino={RANDOM['write_dino'](tmp_path / 'dino', 'cuda')}",
            "--model.models.tagger=null",
            "--model.generation.steps=3",
            f"--model.generation.width={side}",
            f"--model.generation.height={side}",
            f"--model.base_pictures={tmp_path / 'pictures'}",
            f"--model.embeddings={tmp_path / 'embeddings'}",
            f"--trainer.default_root_dir={tmp_path / 'evaluation'}",
            "--trainer.accelerator=cuda",
            shards,
            "--data.batch_size=2",
        ],
        "plain",
    )
    (line,) = [each for each in printed.splitlines() if each.startswith("FOUND ")]
    peak = float(line.split()[1])
    print(
        f"\n{family}, evaluation: at most {peak:.2f} GiB; {time.perf_counter() - start:.0f} s, "
        "with the models' writing"
    )
    assert peak <= ROOM
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert len(metrics["pictures"]) == 32
    rows = {row["name"]: row for row in metrics["rows"]}
    for name in ("picture_change", "subject_similarity", "prompt_similarity", "cmmd", "drift"):
        assert rows[name]["adapter"] is not None, rows[name]["note"]
    assert rows["picture_change"]["adapter"] > 1e-3
    assert rows["trained_loss"]["base"] > 0


def figures(run: Path, name: str) -> list[float]:
    """Return what a run logged of its speed."""
    with (run / "speed.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
