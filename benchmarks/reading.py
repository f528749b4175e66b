"""How fast an epoch is ordered, and cached samples are read, beside the webdataset library.

python benchmarks/reading.py --json reading.json
python benchmarks/reading.py --samples 200 --order 100000     # does the script work?

Latents of SD1.5's size (mean and deviation, 2 × 4 × 64 × 64, float16: 64 KiB) in shards as
`elf prepare` writes them, in the page cache; one process without workers for both sides. Elf reads
in an epoch's order, so anywhere in any shard. The library reads the same shards from beginning to
end, its fastest way, and decodes by the same function. Both are measured in turn; medians count.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from elf.preparation.caches import Cached, pack, text_key, unpack
from elf.preparation.shards import Reader, Sample, read_index, write_shard
from elf.training.epoch import order

LATENT, TEXT = (2, 4, 64, 64), (77, 768)
CAPTIONS = 500
SHARD = 1000
BATCH = 8

ASKED_RATE = 20_000
ASKED_RATIO = 2.0
ASKED_SECONDS, ASKED_MB = 2.0, 200


def make_shards(folder: Path, count: int) -> dict[str, dict[str, Cached]]:
    """Write latents and text states; return where each lies, by kind and key."""
    draw = np.random.default_rng(0)
    # A few arrays in turn: what they hold does not change how fast they are read.
    latents = [pack(draw.normal(size=LATENT).astype(np.float32), "") for _ in range(8)]
    texts = [pack(draw.normal(size=TEXT).astype(np.float32), "") for _ in range(8)]
    keys = {
        "latents": [f"{number:016x}" for number in range(count)],
        "captions": sorted(text_key(f"caption {number}") for number in range(CAPTIONS)),
    }
    members = {"latents": ("latent.npy", latents, LATENT), "captions": ("text.npy", texts, TEXT)}
    found: dict[str, dict[str, Cached]] = {kind: {} for kind in keys}
    for kind, names in keys.items():
        member, arrays, shape = members[kind]
        for start in range(0, len(names), SHARD):
            path = folder / f"{kind}-{start // SHARD:05}-of-00099.tar"
            write_shard(
                path,
                (
                    Sample(key, {member: arrays[n % 8]}, {"stamp": "0" * 16, "shape": shape})
                    for n, key in enumerate(names[start : start + SHARD])
                ),
            )
            index = read_index(path)
            found[kind] |= {e.key: Cached.of(index, e, member) for e in index.entries}
    return found


def read_latents(folder: Path, latents: list[Cached]) -> int:
    """Read latents by position."""
    reader = Reader(folder)
    for latent in latents:
        latent.read(reader)
    reader.close()
    return len(latents)


def read_by_library(folder: Path, shape: tuple[int, ...]) -> int:
    """Read all latents by the webdataset library, shard after shard."""
    import webdataset

    urls = sorted(str(path) for path in folder.glob("latents-*.tar"))
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    return sum(1 for _ in samples.map(lambda sample: unpack(sample["latent.npy"], shape)))


def read_batches(folder: Path, found: dict[str, dict[str, Cached]], samples: list[int]) -> int:
    """Read batches as training gets them: latent and text in float32, stacked."""
    from elf.datamodules.reading import CachedExamples, Draw
    from elf.preparation.captions import Captions
    from elf.preparation.prepared import Example

    texts = {key: {"text": states} for key, states in found["captions"].items()}
    captions = [Captions(f"caption {number}") for number in range(CAPTIONS)]
    examples = [
        Example(key, (512, 512), (512, 512), (0, 0), latent, captions[number % CAPTIONS])
        for number, (key, latent) in enumerate(found["latents"].items())
    ]
    dataset = CachedExamples(examples, texts, Reader(folder))
    for start in range(0, len(samples), BATCH):
        dataset[[Draw(sample, sample) for sample in samples[start : start + BATCH]]]
    dataset.reader.close()
    return len(samples)


def rate(call: Callable[[], int]) -> float:
    """Return units a second of a call that returns their number."""
    start = time.perf_counter()
    return call() / (time.perf_counter() - start)


def measure_order(samples: int) -> None:
    """Print seconds and additional peak memory in MB of one epoch's order; in a process of its own.

    Peak memory is the whole process's, and only grows.
    """
    buckets = np.random.default_rng(0).integers(0, 20, samples).astype(np.int8)
    order(buckets[:1000], 64, 0, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    order(buckets, 64, 0, 0)
    took = time.perf_counter() - start
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([took, more / 1024]))


def order_rows(samples: int, repeats: int) -> list[dict[str, Any]]:
    """Measure the order; return rows."""
    command = [sys.executable, __file__, "--only-order", str(samples)]
    results = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    took, memory = (statistics.median(values) for values in zip(*results, strict=True))
    name = f"order of {samples:,} samples"
    return [
        row(f"{name}: time", took, "s", ASKED_SECONDS, baseline_is="asked, at most"),
        row(f"{name}: memory", memory, "MB", ASKED_MB, baseline_is="asked, at most"),
    ]


def row(name: str, value: float, unit: str, baseline: float, **more: Any) -> dict[str, Any]:
    """Return a row; its ratio is the value's to the baseline."""
    return {"name": name, "value": value, "unit": unit, "baseline": baseline,
            "ratio": value / baseline, **more}  # fmt: skip


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all; return rows."""
    rows = order_rows(options.order, options.repeats)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = make_shards(folder, options.samples)
        latents = list(found["latents"].values())
        plan = order(np.zeros(len(latents), np.int8), BATCH, 0, 0).rows.ravel().tolist()
        calls: dict[str, Callable[[], int]] = {
            "library": lambda: read_by_library(folder, LATENT),
            "latents": lambda: read_latents(folder, [latents[number] for number in plan]),
            "batches": lambda: read_batches(folder, found, plan),
        }
        rates: dict[str, list[float]] = {key: [] for key in calls}
        for _ in range(options.repeats + 1):  # the first round fills the page cache
            for key, call in calls.items():
                rates[key].append(rate(call))
    library, alone, whole = (statistics.median(rates[key][1:]) for key in calls)
    return [
        *rows,
        row("cached latents", alone, "samples/s", ASKED_RATE, baseline_is="asked, at least"),
        row("cached latents, beside the library", alone, "samples/s", library,
            asked_ratio=ASKED_RATIO),
        row("batches of latents and texts in float32", whole, "samples/s", alone,
            baseline_is="latents alone"),
    ]  # fmt: skip


def about() -> dict[str, Any]:
    """Return where and with what the figures were taken."""
    import torch
    import webdataset

    return {
        "date": datetime.date.today().isoformat(),
        "card": None,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "webdataset": webdataset.__version__,
    }


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--samples", type=int, default=8000, help="cached latents, 64 KiB each")
    parser.add_argument("--order", type=int, default=10_000_000, help="samples to be ordered")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; their median counts")
    parser.add_argument("--only-order", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_order:
        measure_order(options.only_order)
        return
    rows = measure(options)
    for line in rows:
        asked = f"asked ×{line['asked_ratio']}" if "asked_ratio" in line else ""
        note = line.get("baseline_is", asked)
        value = f"{line['value']:12.2f} {line['unit']:<10}×{line['ratio']:.2f}"
        print(f"{line['name']:<42}{value}  {note}")
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
