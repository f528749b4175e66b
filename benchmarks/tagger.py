"""How fast the torch tagger is: its network, Elf's calls around it, and a whole `elf predict`.

python benchmarks/tagger.py --json tagger.json                   # on a CUDA device
python benchmarks/tagger.py --end-to-end --workers 14 --json whole.json
python benchmarks/tagger.py --small                              # does the script work? on a CPU

The network is the one of wd-swinv2-tagger-v3 (SwinV2-B at 448 px, 10,861 tags) with random
weights, which take the time that trained ones take. `describe` is Elf's call, from bytes on the
host to probabilities and embeddings there; `network` is the same network on bytes that are on the
card, without a wait between the batches. The card's rate of float16 matrix products is measured in
the same run, and the network's share of it stated. All are warm; medians of the rounds count.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labelling import SIZES, THRESHOLD, make_pictures

from elf.taggers import TorchTagger
from elf.tiny.timm_tagger import FAMILIES, SIZE, SWINV2, build

ASKED_SHARE = 0.8
"""Of the slower of decoding and tagging, for the whole."""

BATCHES = (1, 8, 32, 64, 128)
COMPILED = (8, 64)
"""Each is compiled anew, for a minute or so."""

WAYS = {  # number format, compiled, by graphs at small batches
    "float32": ("float32", False, True),
    "float16 without graphs": ("float16", False, False),
    "float16": ("float16", False, True),
    "float16 compiled": ("float16", True, False),
}


def synchronize(device: torch.device) -> None:
    """Wait for a card; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(
    call: Callable[[], Any], count: int, device: torch.device, rounds: int, least: float
) -> float:
    """Return how many of a call's units pass a second: the median of some rounds.

    Args:
        call: What is measured; it ran before.
        count: Its units.
        device: What is waited for, before and after a round.
        rounds: How many.
        least: Seconds that a round takes at the least.
    """
    rates = []
    for _ in range(rounds):
        synchronize(device)
        start, calls = time.perf_counter(), 0
        while not calls or time.perf_counter() - start < least:
            for _ in range(5):
                call()
            calls += 5
            if device.type == "cuda":  # launches run ahead: no more than a few calls of them
                synchronize(device)
        rates.append(calls * count / (time.perf_counter() - start))
    return statistics.median(rates)


def matmul_rate(device: torch.device, side: int) -> float:
    """Return the TFLOP/s of a product of square float16 matrices (float32 on a CPU)."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(5):
        left @ right
    return rate(lambda: left @ right, 1, device, 3, 0.3) * 2 * side**3 / 1e12


def count_flops(tagger: TorchTagger, pixels: torch.Tensor) -> float:
    """Return the operations of one picture, a multiplication and an addition counting as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        tagger._network(pixels[:1])
    return float(counter.get_total_flops())


def measure(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure every way at every batch; yield rows."""
    device = torch.device(options.device)
    peak = matmul_rate(device, 256 if options.small else 8192)
    yield row("card: matrix product", peak, "TFLOP/s", peak)
    exact: dict[int, float] = {}
    for way, (dtype, compiled, graphs) in WAYS.items():
        if device.type == "cpu" and compiled:
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        tagger = TorchTagger(folder, str(device), dtype, compile=compiled)
        loaded = time.perf_counter() - start
        yield row(f"{way}: loading", loaded, "s", loaded, provider=tagger.provider)
        if not graphs:
            tagger._graphs = None
        for batch in options.compiled if compiled else options.batches:
            if batch > tagger.micro_batch:
                print(f"{way}: {batch} pictures do not fit, {tagger.micro_batch} do")
                continue
            if compiled:  # for this size alone: a second one would be compiled for any
                torch._dynamo.reset()
            yield from measure_batch(f"{way}, batch {batch}", tagger, batch, options, peak, exact)
        yield memory(way, tagger, device)
        del tagger


def measure_batch(
    name: str,
    tagger: TorchTagger,
    batch: int,
    options: argparse.Namespace,
    peak: float,
    exact: dict[int, float],
) -> list[dict[str, Any]]:
    """Measure one way at one batch; ``exact`` keeps the first way's rates by batch."""
    size = tagger._settings.size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    on_card = torch.from_numpy(pixels).to(tagger.device)

    @torch.inference_mode()
    def network() -> Any:
        return tagger._run(on_card)

    start = time.perf_counter()
    for _ in range(3):
        network()
        tagger.describe(pixels)
    warm = time.perf_counter() - start
    bare = rate(network, batch, tagger.device, options.repeats, options.least)
    whole = rate(
        lambda: tagger.describe(pixels), batch, tagger.device, options.repeats, options.least
    )
    flops = count_flops(tagger, on_card)
    base = exact.setdefault(batch, bare)
    gigas = {"gflop_a_picture": flops / 1e9, "warm_up_s": warm}
    teras = bare * flops / 1e12
    return [
        row(f"{name}: network", bare, "pictures/s", base, baseline_is="float32"),
        row(f"{name}: describe", whole, "pictures/s", bare, baseline_is="network"),
        row(f"{name}: network", teras, "TFLOP/s", peak, baseline_is="matrix product", **gigas),
    ]


def memory(way: str, tagger: TorchTagger, device: torch.device) -> dict[str, Any]:
    """Return the size of micro-batch that was taken for the free memory, and the peak."""
    peak = torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else 0.0
    return row(f"{way}: peak memory", peak, "MiB", peak, micro_batch=tagger.micro_batch)


def row(name: str, value: float, unit: str, baseline: float, **more: Any) -> dict[str, Any]:
    """Return a row; its ratio is the value's to the baseline."""
    ratio = value / baseline if baseline else 1.0
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio} | more


def show(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as they come; return them."""
    shown = []
    for line in rows:
        value = f"{line['value']:10.2f} {line['unit']:<11}×{line['ratio']:.2f}"
        known = ("baseline_is", "asked_ratio", "micro_batch", "limit", "provider")
        notes = "  ".join(f"{key} {line[key]}" for key in known if key in line)
        print(f"{line['name']:<46}{value}  {notes}", flush=True)
        shown.append(line)
    return shown


def make_many(folder: Path, count: int, distinct: int = 120) -> None:
    """Write JPEGs of 1-2 MP; beyond some, they differ by a comment alone, and so by their hash."""
    make_pictures(folder, SIZES["1-2 MP"], min(count, distinct))
    for number in range(distinct, count):
        data = (folder / f"{number % distinct:05}.jpg").read_bytes()
        comment = b"\xff\xfe" + struct.pack(">HI", 6, number)
        (folder / f"{number:05}.jpg").write_bytes(data[:2] + comment + data[2:])


def end_to_end(folder: Path, options: argparse.Namespace, size: int) -> Iterator[dict[str, Any]]:
    """Measure tagging alone, decoding alone, and `elf predict` with both; yield rows."""
    from elf.reader import PictureLoader, PictureReader, Task
    from elf.taggers import Preprocess, WDPreprocess

    pictures, count = folder / "pictures", options.count
    make_many(pictures, count)
    device = torch.device(options.device)
    dtype = "float16" if device.type == "cuda" else "float32"
    start = time.perf_counter()
    tagger = TorchTagger(folder / "tagger", str(device), dtype, compile=options.compile)
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (options.batch, size, size, 3), dtype=np.uint8)
    for _ in range(3):
        tagger.describe(pixels)
    loading = time.perf_counter() - start
    alone = rate(
        lambda: tagger.describe(pixels), options.batch, device, options.repeats, options.least
    )
    setting = {
        "workers": options.workers, "batch": options.batch, "decode": options.decode,
        "pictures": count, "compile": options.compile,
    }  # fmt: skip
    yield row("loading, checks and the first batches", loading, "s", loading)
    yield row("tagger alone", alone, "pictures/s", alone, provider=tagger.provider, **setting)
    preprocess = Preprocess({"wd": WDPreprocess(size)}, options.decode)
    tasks = [Task(path.name, "", ("wd",)) for path in sorted(pictures.iterdir())]
    decoding, loops, walls, limits, busy = [], [], [], [], []
    for number in range(options.repeats):
        reader = PictureReader(str(pictures), preprocess)
        start = time.perf_counter()
        for _ in PictureLoader(reader, tasks, options.batch, options.workers):
            pass
        decoding.append(count / (time.perf_counter() - start))
        start = time.perf_counter()
        summary = predict(pictures, folder, folder / f"work-{number}", tagger, options)
        walls.append(count / (time.perf_counter() - start))
        assert summary.labelled == count, summary
        loops.append(count / summary.seconds["all"])
        busy.append(100 * summary.seconds["tagger"] / summary.seconds["all"])
        limits.append(summary.limit())
    decoded, loop, wall = (statistics.median(rates) for rates in (decoding, loops, walls))
    slower = min(decoded, alone)
    asked = {"asked_ratio": ASKED_SHARE, "baseline_is": "the slower of decoding and tagging"}
    yield row("decoding alone", decoded, "pictures/s", decoded, **setting)
    yield row("elf predict, its loop", loop, "pictures/s", slower, limit=limits[-1], **asked)
    yield row("tagger at work in it", statistics.median(busy), "%", 100.0)
    yield row("elf predict, with finding and hashing files", wall, "pictures/s", slower, **asked)


def predict(
    pictures: Path, folder: Path, work: Path, tagger: TorchTagger, options: argparse.Namespace
) -> Any:
    """Label a folder by Elf's own loop with a tagger that is loaded; return its summary."""
    from lightning.pytorch import Trainer

    from elf.callbacks import LabelWriter
    from elf.datamodules import PictureFolder
    from elf.modules import TaggerModule
    from elf.quiet import silence_harmless_warnings
    from elf.taggers import Rules, WDConfig

    silence_harmless_warnings()
    config = WDConfig(str(folder / "tagger"), backend="torch", compile=options.compile)
    module = TaggerModule(config, rules=Rules(threshold=THRESHOLD), decode=options.decode)
    module.tagger = tagger
    data = PictureFolder(
        str(pictures), str(work / "labels"), str(work / "cache"),
        batch_size=options.batch, workers=options.workers,
    )  # fmt: skip
    writer = LabelWriter()
    trainer = Trainer(
        accelerator="cuda" if options.device.startswith("cuda") else "cpu", devices=1,
        logger=False, callbacks=[writer], enable_progress_bar=False, enable_checkpointing=False,
        default_root_dir=work, enable_model_summary=False,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.predict(module, datamodule=data, return_predictions=False)
    return writer.summary


def about(device: str) -> dict[str, Any]:
    """Return where and with what the figures were taken."""
    import lightning
    import PIL
    import timm

    cuda = device.startswith("cuda")
    return {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name(device) if cuda else None,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "timm": timm.__version__,
        "lightning": lightning.__version__,
    }


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--device", default="cuda", help="where the tagger runs")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; their median counts")
    parser.add_argument("--least", type=float, default=1.0, help="seconds a round at the least")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="sizes measured")
    parser.add_argument("--compiled", type=int, nargs="*", default=COMPILED, help="when compiled")
    parser.add_argument("--end-to-end", action="store_true", help="measure the whole loop instead")
    parser.add_argument("--count", type=int, default=2000, help="pictures of the whole loop")
    parser.add_argument("--batch", type=int, default=32, help="batch of the whole loop")
    parser.add_argument("--workers", type=int, default=8, help="threads that decode")
    parser.add_argument("--decode", default="fast", choices=("exact", "fast"))
    parser.add_argument("--compile", action="store_true", help="compile it in the whole loop")
    parser.add_argument("--tags", type=int, default=10_861, help="length of the tag list")
    parser.add_argument("--small", action="store_true", help="a tiny network on the CPU")
    options = parser.parse_args()
    if options.small:
        options.device, options.least, options.repeats = "cpu", 0.05, 2
        options.batches, options.count, options.batch = (1, 4), 24, 8
    family, size = (FAMILIES["swinv2"], SIZE) if options.small else (SWINV2, 448)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder / "tagger", family, options.tags, size, rarity=3.5)
        if options.end_to_end:
            rows = show(end_to_end(folder, options, size))
        else:
            rows = show(measure(folder / "tagger", options))
    if options.json:
        result = {"about": about(options.device), "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
