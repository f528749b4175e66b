"""How long `elf test` takes, and that its memory does not grow with the number of pictures.

python benchmarks/evaluation.py --family sd15 --json evaluation.json   # CUDA, full size, fp16
python benchmarks/evaluation.py --shipped          # a CPU, the models that Elf comes with

The quick profile, 32 pictures, with nothing in a cache; then one with twenty times the prompts,
whose peak memory stands beside the first one's. Full size means random weights: the base, a LoRA of
rank 16, CLIP ViT-L/14 at 336 px and DINOv2-base.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from random_models import write_adapter, write_base, write_clip, write_dino

QUICK = ["portrait", "full body", "night", "city", "library", "snow"]
SCRIPT = """
import resource, sys
import torch
from elf import trainer

trainer.test(sys.argv[1:])
on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
gpu = torch.cuda.max_memory_reserved() >> 20 if on_gpu else 0
print("FOUND", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, gpu)
"""


def evaluate(folder: Path, arguments: list[str], prompts: int) -> tuple[float, float, float]:
    """Return seconds, MiB of memory, and MiB of a GPU's, of one evaluation in its own process.

    Args:
        folder: For the report.
        arguments: What is evaluated with what.
        prompts: How many, a quarter of them without the trigger; two seeds each.
    """
    wanted = [f"{QUICK[n % len(QUICK)]}, forest {n}" for n in range(prompts)]
    given = [text if n % 4 == 3 else f"wood_elf, {text}" for n, text in enumerate(wanted)]
    plan = [f"--data.prompts={json.dumps(given)}", "--data.seeds=[0, 1]", "--model.strengths=[1]"]
    kept = [f"--model.base_pictures={folder}/base", f"--model.embeddings={folder}/embeddings"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments, *plan, *kept,
         f"--trainer.default_root_dir={folder}"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("FOUND")]
    memory, gpu = map(float, line.split()[1:])
    return seconds, memory, gpu


def shipped(folder: Path) -> list[str]:
    """Return the arguments for the models that Elf comes with."""
    base = Path("models/tiny/base")
    adapter = write_adapter(base, folder / "adapter")
    return [
        "--config=configs/eval/quickstart.yaml",
        f"--model.adapter={adapter}",
        "--data.shards=null",
    ]


def full_size(family: str, folder: Path, device: str) -> list[str]:
    """Return the arguments for models of full size, which are written into a folder."""
    base = write_base(folder / "base", family, device)
    adapter = write_adapter(base, folder / "adapter")
    side = 1024 if family == "sdxl" else 512
    models = {
        "clip": str(write_clip(folder / "clip", device)),
        "dino": str(write_dino(folder / "dino", device)),
    }
    return [
        "--config=configs/eval/image.yaml",
        f"--model.base={base}",
        f"--model.adapter={adapter}",
        f"--model.models={json.dumps({**models, 'tagger': None})}",
        f"--model.generation.width={side}",
        f"--model.generation.height={side}",
        "--data.shards=null",
    ]


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--family", choices=["sd15", "sdxl"], default="sd15")
    parser.add_argument("--shipped", action="store_true", help="Elf's own models, on a CPU")
    parser.add_argument("--times", type=int, default=20, help="prompts of the second, of the first")
    options = parser.parse_args()
    if not (options.shipped or torch.cuda.is_available()):
        parser.error("needs a CUDA device; --shipped takes the models that Elf comes with")
    name = "shipped" if options.shipped else options.family
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = time.perf_counter()
        arguments = (
            shipped(folder) if options.shipped else full_size(options.family, folder, "cuda")
        )
        print(f"models written in {time.perf_counter() - start:.0f} s", flush=True)
        few = evaluate(folder / "few", arguments, 8)
        many = evaluate(folder / "many", arguments, 8 * options.times) if options.times else None
    rows.append({"name": f"{name}, 32 pictures", "value": few[0], "unit": "s",
                 "baseline": 120.0, "ratio": 120 / few[0]})  # fmt: skip
    if many is not None:
        rows.append({"name": f"{name}, {32 * options.times} pictures", "value": many[0],
                     "unit": "s", "baseline": few[0], "ratio": few[0] / many[0]})  # fmt: skip
    for number, what in ((1, "memory"), (2, "memory of the GPU")):
        if few[number] and many is not None:
            rows.append({"name": f"{name}, {what} of {32 * options.times} pictures",
                         "value": many[number], "unit": "MiB", "baseline": few[number],
                         "ratio": many[number] / few[number]})  # fmt: skip
        elif few[number]:
            rows.append({"name": f"{name}, {what} of 32 pictures", "value": few[number],
                         "unit": "MiB", "baseline": None, "ratio": None})  # fmt: skip
    for row in rows:
        ratio = "" if row["ratio"] is None else f"×{row['ratio']:.3f} of {row['baseline']:.1f}"
        print(f"{row['name']:<44}{row['value']:10.1f} {row['unit']:<4}{ratio}", flush=True)
    if options.json:
        about = {
            "date": datetime.date.today().isoformat(),
            "card": None if options.shipped else torch.cuda.get_device_name(),
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
