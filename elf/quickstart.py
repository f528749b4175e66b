"""``elf quickstart``: the whole loop, offline, in a small drawn world; its models ship with Elf."""

import contextlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from elf import languagequickstart
from elf.configuration.command_parser import CommandParser
from elf.errors import ElfError
from elf.files import explain_disk_errors, write_atomic
from elf.resources import find

TAG, TRAIN, EVAL = (
    "configs/tag/quickstart.yaml",
    "configs/train/quickstart.yaml",
    "configs/eval/quickstart.yaml",
)
STEPS = 600  # optimizer steps
TOLERANCE = 1e-4  # of a pixel's channel, in 0..1
KINDS = {"lora": "LoRA", "dora": "DoRA"}
COUNT, SEED = 24, 7  # pictures that are drawn, and of which lot
SIZES = ((64, 64), (48, 64), (64, 48))  # width, height


class Steps:
    """Runs the steps, prints each with its time, and keeps their output for the log."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "quickstart.log"
        self.seconds: dict[str, float] = {}
        self.log.write_text("", "utf-8")

    @contextlib.contextmanager
    def step(self, name: str, does: str) -> Iterator[None]:
        """Time a step; what it prints goes to the log."""
        print(f"{len(self.seconds) + 1}. {does:<58}", end="", flush=True)
        output = io.StringIO()
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                yield
        except BaseException as error:
            print(" stopped" if isinstance(error, KeyboardInterrupt) else " failed")
            raise
        finally:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"--- {does}\n{output.getvalue()}\n")
        self.seconds[name] = time.perf_counter() - start
        print(f"{self.seconds[name]:7.1f} s")


def begin(output: Path) -> Steps:
    """Make the folder of a quickstart.

    Raises:
        ElfError: If it holds one already, or cannot be made.
    """
    if (output / "run" / "checkpoints").exists():
        raise ElfError(f"output: {output} holds a quickstart already; give another --output")
    with explain_disk_errors(output, "could not be made", "give another --output"):
        output.mkdir(parents=True, exist_ok=True)
        return Steps(output)


def draw_pictures(folder: Path, count: int = COUNT) -> None:
    """Draw different pictures of `wood_elf` in three shapes, each always the same."""
    from elf.world.drawing import draw
    from elf.world.scene import wood_elf_scene

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        draw(wood_elf_scene((SEED, number)), *size).save(folder / f"wood_elf-{number:02}.png")


def run(output: Path, pictures: Path | None, kind: str, max_steps: int) -> dict[str, Any]:
    """Run the loop into a folder and return the summary's figures.

    Raises:
        ElfError: If the folder holds a quickstart already, or for whatever a step refuses.
    """
    if pictures is not None and not pictures.is_dir():  # before some seconds of imports
        raise ElfError(f"pictures: no folder {pictures}; give the folder of your pictures")
    steps = begin(output)
    raw = pictures or output / "pictures"
    if pictures is None:
        with steps.step("pictures", f"{COUNT} pictures of wood_elf, drawn"):
            draw_pictures(raw)
    with steps.step("import", "torch, lightning, diffusers, transformers, peft"):
        from elf import trainer
        from elf.export import export_diffusers
        from elf.generation import GenerationConfig
        from elf.labels.records import MANIFEST
        from elf.verify import picture_difference

    labels, shards, run_folder = (output / name for name in ("labels", "shards", "run"))
    evaluation = output / "evaluation"
    labelling = [
        f"--config={TAG}",
        f"--data.root={raw}",
        f"--data.labels={labels}",
        f"--data.cache={output / 'cache'}",
    ]
    training = [
        f"--config={TRAIN}",
        f"--model.adapter.kind={kind}",
        f"--trainer.default_root_dir={run_folder}",
        f"--trainer.max_steps={max_steps}",
        f"--data.pictures={raw}",
        f"--data.labels={labels}",
        f"--data.shards={shards}",
    ]
    evaluating = [
        f"--config={EVAL}",
        f"--model.adapter={run_folder}",
        f"--trainer.default_root_dir={evaluation}",
        f"--data.shards={shards}",
    ]
    if pictures is not None:  # who knows what they have in common?
        evaluating += ["--model.concept=null", "--data.seeds=[0]"]
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
            find("models/tiny/base"), run_folder, exported, ["wood_elf", "forest"], sampling
        )
    if not difference <= TOLERANCE:  # nor if it is none
        raise ElfError(
            f"{exported}: diffusers paints other pictures with this file than Elf does in memory "
            f"({difference:.1e} of 1); please report it, with {output / 'quickstart.log'}"
        )
    rows = json.loads((evaluation / "metrics.json").read_text("utf-8"))["rows"]
    measured = {row["name"]: {k: row[k] for k in ("base", "adapter")} for row in rows}
    return {
        "adapter": kind,
        "steps": max_steps,
        "export_picture_difference": difference,
        **{
            f"{short}_{side}{suffix}": measured.get(name + suffix, {}).get(side)
            for short, name in (("concept_rate", "concept_rate"), ("attributes", "attribute_rate"))
            for suffix in ("", "_without_trigger")
            for side in ("base", "adapter")
        },
        "evaluation": measured,
        "train_seconds": steps.seconds["fit"],
        "seconds": steps.seconds,
        "paths": {
            "labels": str(labels / MANIFEST),
            "run": str(run_folder),
            "adapter": str(exported),
            "report": str(evaluation / "report.html"),
            "grid": str(evaluation / "grid.png"),
        },
    }


def table(summary: dict[str, Any]) -> str:
    """Return the closing table."""

    def pair(base: float | None, adapter: float | None) -> str:
        return "–" if base is None else f"{base:.0%} → {adapter:.0%}"

    rows: list[tuple[str, str]] = [("base → adapter:", "")]
    if summary.get("model") == "language":
        return _aligned([*rows, *languagequickstart.lines(summary), *_closing(summary)])
    for suffix, when in (("", "with the trigger"), ("_without_trigger", "without it")):
        for short, what in (("concept_rate", "leaf crown"), ("attributes", "what was asked for")):
            base, adapter = (summary[f"{short}_{side}{suffix}"] for side in ("base", "adapter"))
            rows.append((f"  {what}, {when}", pair(base, adapter)))
    rows += [
        ("export and memory differ by", f"{summary['export_picture_difference']:.1e}"),
        *_closing(summary),
    ]
    return _aligned(rows)


def _closing(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("training", f"{summary['train_seconds']:.0f} s"),
        ("in all", f"{sum(summary['seconds'].values()):.0f} s"),
        *summary["paths"].items(),
    ]


def _aligned(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}".rstrip() for name, value in rows)


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("quickstart", "Run the whole loop, offline, in a small drawn world.")
    what = "what makes pictures, or a language model"
    parser.add_argument("--model", type=Literal["pictures", "language"], default="pictures",
                        help=what)  # fmt: skip
    parser.add_argument("--output", type=str, default="models/quickstart", help="folder to fill")
    parser.add_argument("--pictures", type=str, default=None, help="a folder of your own pictures")
    parser.add_argument("--adapter", type=Literal["lora", "dora"], default="lora", help="its kind")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps")
    return parser


def main(arguments: list[str]) -> None:
    """``elf quickstart [--model pictures|language] [--output DIR] [--adapter lora|dora] …``."""
    options = make_parser().read(arguments)
    output = Path(options.output)
    if options.steps is not None and options.steps < 1:
        raise ElfError(f"steps: {options.steps} is none; take 1 or more")
    if options.model == "language":
        if options.pictures:
            raise ElfError("pictures: a language model learns of none; leave it out")
        steps = options.steps or languagequickstart.STEPS
        summary = languagequickstart.run(output, options.adapter, steps, begin(output))
    else:
        summary = run(
            output,
            Path(options.pictures) if options.pictures else None,
            options.adapter,
            options.steps or STEPS,
        )
    write_atomic(output / "summary.json", json.dumps(summary, indent=2) + "\n")
    print("\n" + table(summary))
