"""How fast pictures are labelled: Elf beside the procedure of kohya's tagger script.

python benchmarks/labelling.py --json labelling.json             # the other side needs opencv
python benchmarks/labelling.py --kinds --rerun 1000 3000         # what a change of rules costs
python benchmarks/labelling.py --agreement models/tiny/tagger    # what fast decoding changes

One run, one machine, one model file: a tagger with the interface of the WD taggers (448 px, the
number of tags of the v3 list) that costs next to nothing, so that it is not the limit. The other
side is restated from its description: decode with Pillow, pad to a white square, OpenCV's area
resize, float32, batch 1 without workers, or batch 16 with two; then thresholds and a text file.
Imports are left out on both sides; pictures are in the system's cache. A run of Elf is all that
`elf predict` does behind the imports: it makes the trainer, lists the folder, reads the tag list,
labels, and settles the labels folder.
"""

import argparse
import contextlib
import csv
import datetime
import functools
import io
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TAGS = 10_861
SIZE = 448
SIZES = {
    "1-2 MP": [(1024, 1024), (1216, 832), (1280, 960), (1600, 1200), (832, 1216)],
    "4 MP": [(2048, 2048), (2560, 1600), (1664, 2432)],
    "16 MP": [(4096, 4096), (4000, 4000)],
}
COUNTS = {"1-2 MP": 240, "4 MP": 60, "16 MP": 16}
THRESHOLD = 0.35


def make_pictures(folder: Path, sizes: list[tuple[int, int]], count: int) -> None:
    """Write JPEGs of photographs with a camera's noise, quality 92."""
    import skimage.data

    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    source = Path(skimage.data.__file__).parent
    photographs = [Image.open(source / name).convert("RGB") for name in names]
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        size = sizes[number % len(sizes)]
        picture = np.asarray(
            photographs[number % len(names)].resize(size, Image.Resampling.BICUBIC)
        )
        noise = draw.normal(0, 5, (size[1], size[0], 1))
        noisy = Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8))
        noisy.save(folder / f"{number:05}.jpg", quality=92)


def make_tagger(folder: Path) -> Path:
    """Write a tagger whose scores hang on the picture's mean colours."""
    from elf.tiny.onnx_file import Graph

    draw = np.random.default_rng(0)
    graph = Graph("cheap")
    value = graph.node("ReduceMean", ["input"], axes=[1, 2], keepdims=0)
    weights = draw.normal(0, 0.006, (3, TAGS)).astype(np.float32)
    bias = draw.normal(-6.5, 1.6, TAGS).astype(np.float32)  # some 30 tags a picture, as real ones
    value = graph.node("MatMul", [value, graph.constant(weights)])
    value = graph.node("Add", [value, graph.constant(bias)])
    graph.node("Sigmoid", [value], output="output")
    folder.mkdir(parents=True, exist_ok=True)
    model = graph.model({"input": ["batch", SIZE, SIZE, 3]}, {"output": ["batch", TAGS]})
    (folder / "model.onnx").write_bytes(model)
    with (folder / "selected_tags.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tag_id", "name", "category", "count"])
        writer.writerows([number, f"tag_number_{number}", 0, 0] for number in range(TAGS))
    return folder


class OtherPictures:
    """The other side's dataset: a path in, a float32 picture out."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[str, np.ndarray]:
        """Decode, pad to a white square, resize, as its script does."""
        import cv2

        image = Image.open(self.paths[number]).convert("RGB")
        pixels = np.array(image)[:, :, ::-1]
        side = max(pixels.shape[:2])
        above, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
        below, right = side - pixels.shape[0] - above, side - pixels.shape[1] - left
        margins = ((above, below), (left, right), (0, 0))
        pixels = np.pad(pixels, margins, mode="constant", constant_values=255)
        method = cv2.INTER_AREA if side > SIZE else cv2.INTER_LANCZOS4
        return str(self.paths[number]), cv2.resize(
            pixels, (SIZE, SIZE), interpolation=method
        ).astype(np.float32)


def other_side(pictures: Path, tagger: Path, labels: Path, batch: int, workers: int) -> None:
    """Label a folder by the procedure of the other script."""
    import onnxruntime
    from torch.utils.data import DataLoader

    labels.mkdir(parents=True)
    session = onnxruntime.InferenceSession(str(tagger / "model.onnx"))
    with (tagger / "selected_tags.csv").open(newline="") as file:
        names = [row["name"].replace("_", " ") for row in csv.DictReader(file)]
    loader = DataLoader(
        OtherPictures(sorted(pictures.iterdir())), batch_size=batch, num_workers=workers,
        collate_fn=list,
    )  # fmt: skip
    for samples in loader:
        scores = session.run(None, {"input": np.stack([pixels for _, pixels in samples])})[0]
        for (path, _), row in zip(samples, scores, strict=True):
            tags = [name for name, score in zip(names, row, strict=True) if score >= THRESHOLD]
            (labels / f"{Path(path).stem}.txt").write_text(", ".join(tags) + "\n")


def elf(pictures: Path, tagger: Path, work: Path, decode: str, **options: Any) -> Any:
    """Label a folder by Elf's own loop; return its summary."""
    from lightning.pytorch import Trainer

    from elf.callbacks import LabelWriter
    from elf.datamodules import PictureFolder
    from elf.modules import TaggerModule
    from elf.quiet import silence_harmless_warnings
    from elf.taggers import Rules, WDConfig

    silence_harmless_warnings()
    rules = Rules(threshold=options.pop("threshold", THRESHOLD))
    module = TaggerModule(WDConfig(str(tagger)), rules=rules, decode=decode)
    folders = (str(pictures), str(work / "labels"), str(work / "cache"))
    data = PictureFolder(*folders, **{"batch_size": 16, "workers": 2} | options)
    writer = LabelWriter()
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, callbacks=[writer],
        enable_progress_bar=False, enable_checkpointing=False, default_root_dir=work,
        enable_model_summary=False,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.predict(module, datamodule=data, return_predictions=False)
    return writer.summary


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call takes, and what it gives."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare(folder: Path, tagger: Path, kind: str, repeats: int) -> list[dict[str, Any]]:
    """Measure all ways over one kind of pictures, in turn; return rows."""
    pictures = folder / kind.replace(" ", "")
    count = COUNTS[kind]
    make_pictures(pictures, SIZES[kind], count)
    rates: dict[str, list[float]] = {}
    limits = {}
    for number in range(repeats + 1):  # the first round fills caches
        work = folder / f"{pictures.name}-{number}"
        ways: dict[str, Callable[[], Any]] = {
            "kohya's procedure, defaults": lambda work=work: other_side(
                pictures, tagger, work / "a", 1, 0
            ),
            "kohya's procedure, best flags": lambda work=work: other_side(
                pictures, tagger, work / "b", 16, 2
            ),
            "elf predict, exact": lambda work=work: elf(pictures, tagger, work / "exact", "exact"),
            "elf predict, fast": lambda work=work: elf(pictures, tagger, work / "fast", "fast"),
            "elf predict, rules changed": lambda work=work: elf(
                pictures, tagger, work / "fast", "fast", threshold=0.3, skip_existing=False
            ),
            "elf predict, nothing changed": lambda work=work: elf(
                pictures, tagger, work / "fast", "fast"
            ),
        }
        for name, way in ways.items():
            took, summary = seconds(way)
            if summary is not None:
                limits[name] = summary.limit()
            if number:
                rates.setdefault(name, []).append(count / took)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base = medians["kohya's procedure, defaults"]
    best = medians["kohya's procedure, best flags"]
    first = medians["elf predict, fast"]
    rows = []
    for name, value in medians.items():
        baseline = first if "changed" in name else base
        more = {} if "changed" in name else {"ratio_best_flags": value / best}
        rows.append(
            {"name": f"{kind}: {name}", "value": value, "unit": "pictures/s", "baseline": baseline,
             "ratio": value / baseline, "limit": limits.get(name, ""), **more}
        )  # fmt: skip
    return rows


def rerun(folder: Path, tagger: Path, count: int) -> list[dict[str, Any]]:
    """Measure reruns after a change of rules over more pictures than the comparison has.

    The cutoff goes down, up and down again, which changes nearly all text files; the median
    counts. The files differ in what stands behind the picture's end, which decoders do not read.
    """
    pictures, work = folder / f"{count}", folder / f"{count}-work"
    make_pictures(pictures, SIZES["1-2 MP"], min(count, 200))
    drawn = [path.read_bytes() for path in sorted(pictures.iterdir())]
    for number in range(len(drawn), count):
        data = drawn[number % len(drawn)] + number.to_bytes(4)
        (pictures / f"{number:05}.jpg").write_bytes(data)
    runs = []
    others = 0.0  # the largest share of the machine that other work took
    for threshold in (THRESHOLD, 0.3, THRESHOLD, 0.3):
        os.sync()  # or a run's own sync would wait for what others wrote
        before, busy = os.times(), busy_seconds()
        run = functools.partial(
            elf, pictures, tagger, work, "fast", threshold=threshold, skip_existing=False
        )
        wall, _ = seconds(run)
        after = os.times()
        processor = after.user + after.system - before.user - before.system
        share = (busy_seconds() - busy - processor) / wall / len(os.sched_getaffinity(0))
        others = max(others, share)
        runs.append({"pictures/s": count / wall, "processor ms/picture": 1e3 * processor / count})
    shutil.rmtree(pictures)
    first, again = runs[0], runs[1:]
    rows = []
    for unit in first:
        value = statistics.median(run[unit] for run in again)
        ratio = value / first[unit] if "/s" in unit else first[unit] / value
        rows.append(
            {"name": f"{count} pictures of 1-2 MP: rules changed", "value": value, "unit": unit,
             "baseline": first[unit], "ratio": ratio,
             "limit": f"other work beside it took up to {100 * others:.0f} % of the machine"}
        )  # fmt: skip
    return rows


def busy_seconds() -> float:
    """Return how long all cores worked since the machine was started, for whomever."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def agreement(tagger: Path, count: int = 1500) -> list[dict[str, Any]]:
    """Measure how many kept tags the fast decoding shares with the exact one, of their mean number.

    The tiny tagger sees 64 px, so the pictures are as many times larger as real ones are than
    448 px. It never saw photographs and is more easily shaken than a real one.
    """
    import skimage.data

    from elf.taggers import Preprocess, Rules, Selector, WDPreprocess, WDTagger
    from elf.taggers.outputs import to_units
    from elf.taggers.scores import Scores

    model = WDTagger(tagger)
    select = Selector(model.tags, Rules())
    source = Path(skimage.data.__file__).parent
    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    photographs = [Image.open(source / name).convert("RGB") for name in names]
    ways = {decode: Preprocess({"wd": WDPreprocess(64)}, decode) for decode in ("exact", "fast")}
    rows = []
    for kind, side in {"1-2 MP": 176, "4 MP": 304, "16 MP": 576}.items():
        draw = np.random.default_rng(0)
        shared = total = 0
        for number in range(count):
            image = photographs[number % len(names)]
            edge = int(draw.integers(200, min(image.size)))
            x, y = (int(draw.integers(0, length - edge + 1)) for length in image.size)
            height = round(side * draw.uniform(0.6, 1) / 16) * 16
            crop = image.crop((x, y, x + edge, y + edge)).resize((side, height))
            buffer = io.BytesIO()
            crop.save(buffer, "JPEG", quality=92)
            kept = []
            for way in ways.values():
                pixels, _ = way.open(buffer.getvalue(), ["wd"])
                units = to_units(model.score(pixels["wd"][None]))[0]
                kept.append(set(select(Scores.of(units)).tags))
            shared += len(kept[0] & kept[1])
            total += (len(kept[0]) + len(kept[1])) / 2
        name = f"{kind}: kept tags that fast shares with exact"
        share = 100 * shared / total
        rows.append(
            {"name": name, "value": share, "unit": "%", "baseline": 99.5, "ratio": share / 99.5}
        )
    return rows


def about() -> dict[str, Any]:
    """Return where and with what the figures were taken."""
    import lightning
    import onnxruntime
    import PIL
    import torch

    return {
        "date": datetime.date.today().isoformat(),
        "card": None,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; their median counts")
    parser.add_argument(
        "--kinds", nargs="*", default=list(SIZES), choices=list(SIZES), help="pictures to compare"
    )
    parser.add_argument(
        "--rerun", type=int, nargs="*", default=[1000, 3000], help="pictures of the reruns' rows"
    )
    parser.add_argument(
        "--agreement", type=Path, help="folder of a 64 px tagger (models/tiny/tagger)"
    )
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.agreement:
            rows += agreement(options.agreement)
        else:
            tagger = make_tagger(folder / "tagger")
            for kind in options.kinds:
                rows += compare(folder, tagger, kind, options.repeats)
            if options.rerun and not options.kinds:
                rerun(folder, tagger, 20)  # imports
            for count in options.rerun:
                rows += rerun(folder, tagger, count)
    for row in rows:
        best = f"  ×{row['ratio_best_flags']:.2f} best" if "ratio_best_flags" in row else ""
        limit = f"  {row['limit']}" if row.get("limit") else ""
        value = f"{row['value']:9.2f} {row['unit']:<21}×{row['ratio']:.2f}"
        print(f"{row['name']:<48}{value}{best}{limit}")
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
