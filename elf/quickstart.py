"""``elf quickstart``: the whole loop, offline, on tiny models of the real classes."""

import contextlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from elf.command_parser import CommandParser
from elf.errors import ElfError
from elf.files import write_atomic

TAG, TRAIN, EVAL = (
    "configs/tag/quickstart.yaml",
    "configs/train/quickstart.yaml",
    "configs/eval/quickstart.yaml",
)
KINDS = {"lora": "LoRA", "dora": "DoRA"}
# Photographs that come with scikit-image: people, animals, machines, things
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


class Steps:
    """Runs the steps, prints each with its time, and keeps their output for the log."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "quickstart.log"
        self.seconds: dict[str, float] = {}
        self.log.write_text("")

    @contextlib.contextmanager
    def step(self, name: str, does: str) -> Iterator[None]:
        """Time a step; what it prints goes to the log."""
        print(f"{len(self.seconds) + 1}. {does:<58}", end="", flush=True)
        output = io.StringIO()
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                yield
        except BaseException:
            print(" failed")
            raise
        finally:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"--- {does}\n{output.getvalue()}\n")
        self.seconds[name] = time.perf_counter() - start
        print(f"{self.seconds[name]:7.1f} s")


def collect_photographs(folder: Path) -> int:
    """Write crops of scikit-image's photographs in several shapes; return how many.

    Each photograph gives five: whole, and square, portrait and landscape parts of it.
    """
    import skimage.data
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    source = Path(skimage.data.__file__).parent
    count = 0
    for name in PHOTOGRAPHS:
        with Image.open(source / name) as image:
            picture = image.convert("RGB")
        width, height = picture.size
        side = min(width, height)
        boxes = {
            "whole": (0, 0, width, height),
            "square": (0, 0, side * 9 // 10, side * 9 // 10),
            "centre": (width // 4, height // 4, width * 3 // 4, height * 3 // 4),
            "portrait": (width // 3, 0, width // 3 + side * 2 // 3, side),
            "landscape": (0, height // 4, width, height // 4 + width * 2 // 5),
        }
        for part, box in boxes.items():
            picture.crop(box).save(folder / f"{Path(name).stem}-{part}.jpg", quality=92)
            count += 1
    return count


def run(output: Path, pictures: Path | None, kind: str, max_steps: int) -> dict[str, Any]:
    """Run the loop into a folder and return the summary's figures.

    Raises:
        ElfError: If the folder holds a quickstart already, or for whatever a step refuses.
    """
    if (output / "run" / "checkpoints").exists():
        raise ElfError(f"output: {output} holds a quickstart already; give another --output")
    output.mkdir(parents=True, exist_ok=True)
    steps = Steps(output)
    raw = pictures or output / "pictures"
    models = output / "models"
    if pictures is None:
        with steps.step("pictures", "Photographs from scikit-image, cropped"):
            collect_photographs(raw)
    with steps.step("models", "Tiny models of the real classes, written to disk"):
        from elf.tiny import build_all

        build_all(models)
    with steps.step("import", "torch, lightning, diffusers, transformers, peft"):
        from elf import trainer
        from elf.export import export_diffusers
        from elf.generation import GenerationConfig
        from elf.verify import picture_difference

    labels, shards, run_folder = (output / name for name in ("labels", "shards", "run"))
    evaluation = output / "evaluation"
    labelling = [
        f"--config={TAG}",
        f"--model.wd.model={models}/tagger",
        f"--model.florence.model={models}/captioner",
        f"--data.root={raw}",
        f"--data.labels={labels}",
        f"--data.cache={output / 'cache'}",
    ]
    training = [
        f"--config={TRAIN}",
        f"--model.base={models}/base",
        f"--model.adapter.kind={kind}",
        f"--trainer.default_root_dir={run_folder}",
        f"--trainer.max_steps={max_steps}",
        f"--data.pictures={raw}",
        f"--data.labels={labels}",
        f"--data.shards={shards}",
    ]
    evaluating = [
        f"--config={EVAL}",
        f"--model.base={models}/base",
        f"--model.adapter={run_folder}",
        f"--model.embedder={models}/clip",
        f"--model.tagger={models}/tagger",
        f"--trainer.default_root_dir={evaluation}",
        f"--data.shards={shards}",
    ]
    with steps.step("predict", "elf predict: tags by the WD tagger, captions by Florence-2"):
        trainer.predict(labelling)
    with steps.step("prepare", "elf prepare: shards, buckets, latents, text states"):
        trainer.prepare(training)
    with steps.step("fit", f"elf fit: {max_steps} steps of a {KINDS[kind]}"):
        trainer.fit(training)
    with steps.step("test", "elf test: base against adapter"):
        trainer.test(evaluating)
    with steps.step("export", "elf export: the file for diffusers, verified"):
        exported = export_diffusers(run_folder, output / "adapter", "float32")
        sampling = GenerationConfig(steps=5, guidance=3.0, width=64, height=64, batch_size=2)
        difference = picture_difference(
            str(models / "base"), run_folder, exported, ["wood_elf", "forest"], sampling
        )
    rows = json.loads((evaluation / "metrics.json").read_text())["rows"]
    return {
        "adapter": kind,
        "steps": max_steps,
        "export_picture_difference": difference,
        "evaluation": {row["name"]: {k: row[k] for k in ("base", "adapter")} for row in rows},
        "train_seconds": steps.seconds["fit"],
        "seconds": steps.seconds,
        "paths": {
            "labels": str(labels / "manifest.jsonl"),
            "run": str(run_folder),
            "adapter": str(exported),
            "report": str(evaluation / "report.md"),
            "grid": str(evaluation / "grid.png"),
        },
    }


def table(summary: dict[str, Any]) -> str:
    """Return the closing table."""
    loss = summary["evaluation"]["held_out_loss"]
    losses = "none held out"
    if loss["base"] is not None:
        losses = f"{loss['base']:.4f} → {loss['adapter']:.4f}"
    rows: list[tuple[str, str]] = [
        ("held-out loss, base → adapter", losses),
        ("export and memory differ by", f"{summary['export_picture_difference']:.1e}"),
        ("training", f"{summary['train_seconds']:.0f} s"),
        ("in all", f"{sum(summary['seconds'].values()):.0f} s"),
        *summary["paths"].items(),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def main(arguments: list[str]) -> None:
    """``elf quickstart [--output DIR] [--pictures DIR] [--adapter lora|dora] [--steps N]``."""
    parser = CommandParser("quickstart", "Run the whole loop, offline, on tiny models.")
    parser.add_argument("--output", type=str, default="models/quickstart", help="folder to fill")
    parser.add_argument("--pictures", type=str, default=None, help="a folder of your own pictures")
    parser.add_argument("--adapter", type=Literal["lora", "dora"], default="lora", help="its kind")
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps")
    options = parser.read(arguments)
    output = Path(options.output)
    summary = run(
        output,
        Path(options.pictures) if options.pictures else None,
        options.adapter,
        options.steps,
    )
    write_atomic(output / "summary.json", json.dumps(summary, indent=2) + "\n")
    print("\n" + table(summary))
