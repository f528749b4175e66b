"""What the whole of `elf fit` costs over its bare captured step: Lightning, loader, log, callbacks.

python benchmarks/fit.py --family sd15 --batch 1 --json fit.json
python benchmarks/fit.py --family tiny --device cpu --block 5   # does the script work?

A real run in this process, by the preset for the family and the overlay for 80 GB in fp16, from
drawn pictures that `elf prepare` cached, on a base of full size with random weights. Blocks of its
steps take turns with blocks of the bare captured step of train_step.py on a batch of the same shape
(two networks lie on the card), each between two synchronisations; a few steps go untimed where the
run's loader has had time to read ahead. A block of 50 has what the preset does in 50 steps: five
rows of figures, one of them with the adapter's norms. Validation, checkpoints and sample pictures
come every 250 steps and are not in it; the run makes no sample pictures.
`--json` adds rows to a file that is there already.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from random_models import write_base, write_pictures
from train_step import Ours, add_rows, prepare, synchronize

from elf import trainer as commands
from elf.callbacks import SpeedRecorder

FIRST, SETTLE = 20, 5
"""Steps of the run before the first block, and between two: untimed."""

SIDES = {"sd15": 512, "sdxl": 1024, "tiny": 128}


class Alternating(Callback):
    """Lets the bare step work for as many steps between a run's, and times both.

    Args:
        bare: The bare step.
        options: ``block``, ``repeats`` and the device.
    """

    def __init__(self, bare: Ours, options: argparse.Namespace) -> None:
        self.bare, self.options = bare, options
        self.loaded = self.first_step = self._start = self._waited = 0.0
        self.fit_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.waits: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when the networks are loaded; they are not on the device yet."""
        self.loaded = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Begin and end a block."""
        block, step = self.options.block, trainer.global_step
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        speed = next(each for each in callbacks if isinstance(each, SpeedRecorder))
        if step == 1:
            synchronize(self.options)
            self.first_step = time.perf_counter() - self.loaded
        place = (step - FIRST) % (block + SETTLE)
        if step < FIRST or len(self.bare_seconds) == self.options.repeats:
            return
        if place == 0:
            synchronize(self.options)
            speed.write_rows(trainer, wait=True)
            self._start, self._waited = time.perf_counter(), speed.delay
        elif place == block:
            synchronize(self.options)
            seconds = time.perf_counter() - self._start
            speed.write_rows(trainer, wait=True)
            self.fit_seconds.append(seconds / block)
            self.waits.append((speed.delay - self._waited) / seconds)
            self.bare_seconds.append(self._bare())

    def _bare(self) -> float:
        start = time.perf_counter()
        for _ in range(self.options.block):
            self.bare.step()
        synchronize(self.options)
        return (time.perf_counter() - start) / self.options.block


class TimedCLI(commands.ElfCLI):
    """`elf fit` with one callback more, behind all others."""

    timing: Alternating

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer."""
        made = super().instantiate_trainer(**kwargs)
        made.callbacks.append(self.timing)  # type: ignore[attr-defined]
        return made


def arguments_of(options: argparse.Namespace, folder: Path) -> list[str]:
    """Make base, pictures and configuration, and return the arguments of `elf fit`."""
    family = "sd15" if options.family == "tiny" else options.family
    preset = yaml.safe_load(Path(f"configs/train/{family}-{options.kind}.yaml").read_text())
    callbacks = preset["trainer"]["callbacks"]
    preset["trainer"]["callbacks"] = [
        each for each in callbacks if each["class_path"] != "SamplePictures"
    ]
    data = preset["data"]["init_args"]
    for key in ("pictures", "labels"):
        del data[key]
    side = SIDES[options.family]
    pictures = write_pictures(folder / "pictures", [(side, side)] * options.pictures)
    data |= {"sets": [{"pictures": str(pictures)}], "resolution": side}
    (folder / "train.yaml").write_text(yaml.safe_dump(preset))
    base = write_base(folder / "base", options.family, options.device)
    on_gpu = options.kind_of_device == "cuda"
    return [
        f"--config={folder / 'train.yaml'}",
        "--config=configs/hardware/80gb.yaml",
        f"--model.base={base}",
        f"--model.gradient_checkpointing={str(options.checkpointing).lower()}",
        f"--data.shards={folder / 'shards'}",
        f"--data.batch_size={options.batch}",
        f"--trainer.default_root_dir={folder / 'run'}",
        f"--trainer.accelerator={'cuda' if on_gpu else 'cpu'}",
        f"--trainer.precision={'16-mixed' if on_gpu else '32-true'}",
        f"--trainer.max_steps={FIRST + options.repeats * (options.block + SETTLE)}",
    ]


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the rows."""
    shared = argparse.Namespace(**vars(options), quantization=None)
    prepare(shared)
    options.kind_of_device = shared.kind_of_device
    arguments = arguments_of(options, folder)
    commands.prepare(arguments)
    bare = Ours(shared, graphs=True)
    for _ in range(3):
        bare.step()
    TimedCLI.timing = timing = Alternating(bare, options)
    with commands.one_line(arguments):
        cli = TimedCLI(["fit", *arguments])
    passes = cli.model.stepper.passes
    if options.kind_of_device == "cuda" and passes.eager:
        raise SystemExit(f"{passes.eager} steps were not captured")
    fit, step = (statistics.median(each) for each in (timing.fit_seconds, timing.bare_seconds))
    own = (folder / "run" / "speed.csv").read_text()
    name = f"{options.label}: fit"
    return [
        {"name": f"{name}, a step", "value": 1e3 * fit, "unit": "ms", "baseline": 1e3 * step,
         "ratio": fit / step, "blocks": timing.fit_seconds, "bare_blocks": timing.bare_seconds},
        {"name": f"{name}, data wait of the step", "value": 100 * statistics.median(timing.waits),
         "unit": "%", "baseline": None, "ratio": None, "blocks": timing.waits, "speed_csv": own},
        {"name": f"{name}, loaded to first step", "value": timing.first_step, "unit": "s",
         "baseline": None, "ratio": None, "captures": passes.captures},
    ]  # fmt: skip


def main() -> None:
    """Measure, print a table, add rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=list(SIDES), default="sd15")
    parser.add_argument("--kind", choices=["lora", "dora"], default="lora")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=4, help="blocks; more meet a validation")
    parser.add_argument("--block", type=int, default=50, help="steps of a block")
    parser.add_argument("--pictures", type=int, default=64, help="that are drawn")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    options.precision = "fp32" if options.device == "cpu" else "fp16"
    checkpointed = ", checkpointing" if options.checkpointing else ""
    options.label = (
        f"{options.family} {options.kind} {options.precision} batch {options.batch}{checkpointed}"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    for row in rows:
        beside = ""
        if row["ratio"] is not None:
            beside = f"   bare {row['baseline']:.2f} ms  ×{row['ratio']:.3f}"
        print(f"{row['name']:<62}{row['value']:9.2f} {row['unit']}{beside}")
    if options.json:
        add_rows(options.json, rows, options.kind_of_device == "cuda")


if __name__ == "__main__":
    main()
