"""The user's card: what `elf prepare` and `elf fit` do by the presets fits a card of 8 GB.

Run with `pytest -m gpu tests/gpu/test_small_card.py -s`, which prints what each run took. Networks
of full size with random weights; a card of 8 GB has about 7.2 GiB for a program, so torch gets no
more of whatever card this is. Warnings are errors: nothing is left out, nothing runs uncaptured.
"""

import csv
import gc
import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from elf import trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ROOM = 7.2  # GiB
STEPS, SHAPES = 20, 3
RANDOM = runpy.run_path("benchmarks/random_base.py")


@pytest.fixture(autouse=True)
def _small_card() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(ROOM * 2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
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
        trainer.prepare([*preset(f"{family}-lora", folder), *bases[family]])
        gc.collect()
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
    for key in ("pictures", "labels"):  # the sets' own
        del config["data"]["init_args"][key]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return [f"--config={path}", "--config=configs/hardware/8gb.yaml"]


@pytest.mark.parametrize("name", ["sd15-lora", "sd15-dora", "sdxl-lora", "sdxl-dora"])
def test_a_preset_fits(
    name: str,
    bases: dict[str, list[str]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    start = time.perf_counter()
    family = name.split("-")[0]
    arguments = prepared(family, bases, tmp_path_factory.mktemp(family))
    ready = time.perf_counter()
    run = tmp_path / "run"
    cli = trainer.run(
        "fit",
        [
            *preset(name, tmp_path),
            *arguments,
            f"--trainer.default_root_dir={run}",
            "--trainer.accelerator=cuda",
            f"--trainer.max_steps={STEPS}",
        ],
    )
    peaks = [*figures(run, "memory/peak_gib"), torch.cuda.max_memory_reserved() / 2**30]
    done = time.perf_counter()
    print(
        f"\n{name}: most GiB reserved, by 10 steps and at the end, {[round(x, 2) for x in peaks]}; "
        f"made and prepared in {ready - start:.0f} s, trained in {done - ready:.0f} s"
    )
    stepper: Any = cli.model.stepper
    assert cli.trainer.global_step == STEPS
    assert stepper.passes.eager == 0, "a step was not captured"
    assert stepper.passes.captures >= SHAPES
    assert stepper.update.replays == STEPS
    assert max(peaks) <= ROOM
    sheets = [path.name for path in sorted((run / "samples").glob("*.png"))]
    assert sheets == ["step-000000.png", f"step-{STEPS:06}.png"]
    assert list((run / "adapter").glob("*.safetensors"))


def figures(run: Path, name: str) -> list[float]:
    """Return what a run logged of its speed."""
    with (run / "speed.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
