"""How well and how fast `elf curate` finds pictures that are alike, and in how much memory.

python benchmarks/curate.py --json curate.json           # faiss-cpu is measured if installed

Each search runs in a process of its own, over data that are kind and data that are not: all
pictures alike (5 thousand million alike pairs at 100,000), all pairs just unlike, all hashes close
enough to be laid over each other. Seconds are of the wall clock; `cpu` are seconds of all cores.
"""

import argparse
import datetime
import importlib.util
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from labelling import SIZES, make_pictures
from PIL import Image

THRESHOLD = 0.95
ASKED, ASKED_MEMORY = 60.0, 4096.0
"""Seconds and MiB that a search over 100,000 may take."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, in place."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def embeddings(kind: str, count: int, width: int = 512) -> np.ndarray:
    """Return embeddings of one kind."""
    draw = np.random.default_rng(0)
    noise = draw.standard_normal((count, width), dtype=np.float32)
    if kind == "one in fifty has a copy":
        noise *= (np.arange(1, width + 1) ** -0.5).astype(np.float32)  # as networks' are
        noise[: count // 50] = noise[-(count // 50) :] * 1.01
        return unit(noise)
    if kind == "no direction preferred":
        return unit(noise)
    centre = unit(draw.standard_normal((1, width), dtype=np.float32))
    if kind == "all alike":
        return unit(centre + 0.2 * unit(noise))
    noise -= (noise @ centre.T) * centre
    return unit(centre + unit(noise) * np.float32((1 / (THRESHOLD - 0.02) - 1) ** 0.5))


def hashes(kind: str, count: int) -> np.ndarray:
    """Return hashes of one kind."""
    draw = np.random.default_rng(0)
    if kind == "one in fifty has a copy":
        bits = draw.integers(0, 2, (count, 256), np.uint8)
        bits[: count // 50] = bits[-(count // 50) :]
    else:
        share = {"all alike": 0.02, "all loosely alike": 0.17}[kind]
        bits = draw.integers(0, 2, (1, 256), np.uint8) ^ (draw.random((count, 256)) < share)
    bits[:, 0] = 0
    return np.packbits(bits, axis=1)


def search_embeddings(kind: str, count: int) -> int:
    """Group embeddings; return how many groups there are."""
    from elf.curation.duplicates import Space, group

    space = Space(embeddings(kind, count), THRESHOLD)
    return len(np.unique(group([space], np.zeros(count, np.bool_))))


def search_hashes(kind: str, count: int) -> int:
    """Propose for pictures of given hashes; return how many groups there are."""
    from elf.curation.facts import Facts
    from elf.curation.perceptual import GRAY
    from elf.curation.policy import Policy
    from elf.curation.proposals import propose
    from elf.curation.quality import Figures
    from elf.curation.scan import Picture

    draw = np.random.default_rng(1)
    figures = Figures(0.2, 7.0, 0.9, 0.1, 0.5)
    pictures = [
        Picture(
            f"{number:064x}"[::-1],
            (f"{number}.jpg",),
            Facts(1024, 1024, number, "JPEG", 90, figures, 1.0, row.tobytes(), draw.bytes(GRAY**2)),
        )
        for number, row in enumerate(hashes(kind, count))
    ]
    return len({entry.leader for entry in propose(pictures, {}, Policy())})


def search_faiss(kind: str, count: int) -> int:
    """Search by another library, all pairs that reach the threshold; return how many."""
    import faiss

    vectors = embeddings(kind, count)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return len(index.range_search(vectors, THRESHOLD)[1]) - count


SEARCHES: dict[str, tuple[Callable[[str, int], int], tuple[str, ...]]] = {
    "embeddings": (
        search_embeddings,
        ("one in fifty has a copy", "no direction preferred", "all alike", "all just unlike"),
    ),
    "hashes, crops laid over": (
        search_hashes,
        ("one in fifty has a copy", "all alike", "all loosely alike"),
    ),
    "embeddings by faiss, IndexFlatIP": (search_faiss, ("one in fifty has a copy",)),
}


def peak_memory() -> float:
    """Return this program's peak of memory, MiB; ``ru_maxrss`` would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def one(name: str, kind: str, count: int) -> None:
    """Run one search and print its figures as JSON."""
    start, cpu = time.perf_counter(), time.process_time()
    found = SEARCHES[name][0](kind, count)
    took = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "found": found,
        "peak": peak_memory(),
    }
    print(json.dumps(took))


def searches(count: int) -> list[dict[str, Any]]:
    """Measure all searches; the time includes making the data."""
    rows: list[dict[str, Any]] = []
    for name, (_, kinds) in SEARCHES.items():
        if "faiss" in name and importlib.util.find_spec("faiss") is None:
            continue
        for kind in kinds:
            command = [sys.executable, __file__, "--one", name, kind, str(count)]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            took = json.loads(lines.splitlines()[-1])
            what = f"{count} {name}: {kind}"
            rows.append(
                {"name": what, "value": took["seconds"], "unit": "s", "baseline": ASKED,
                 "ratio": took["seconds"] / ASKED, "cpu": took["cpu"], "found": took["found"]}
            )  # fmt: skip
            rows.append(
                {"name": f"{what}, peak", "value": took["peak"], "unit": "MiB",
                 "baseline": ASKED_MEMORY, "ratio": took["peak"] / ASKED_MEMORY}
            )  # fmt: skip
            show(rows[-2:])
    return rows


def plain(paths: list[Path]) -> None:
    """Look at pictures as a short script does: Pillow, one after the other, a thumbnail each."""
    for path in paths:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
        np.asarray(pixels.convert("L").resize((64, 64)))
        pixels.thumbnail((256, 256))
        pixels.save(io.BytesIO(), "JPEG", quality=80)


def looking(kind: str, count: int) -> list[dict[str, Any]]:
    """Measure a first and a second run over real files."""
    from elf.cli import run
    from elf.curation.scan import Scanner, Thumbnails

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        make_pictures(pictures, SIZES[kind], count)
        moment = time.time_ns() - 60 * 10**9
        for path in pictures.iterdir():
            os.utime(path, ns=(moment, moment))
        start = time.perf_counter()
        plain(sorted(pictures.iterdir()))
        base = count / (time.perf_counter() - start)
        cache = folder / "cache"
        start, cpu = time.perf_counter(), time.process_time()
        with closing(Scanner(pictures, cache, cache, Thumbnails(folder / "sheet"))) as scanner:
            scanner.scan()
        rate = count / (time.perf_counter() - start)
        cost = 1e3 * (time.process_time() - cpu) / count
        start = time.perf_counter()
        with redirect_stdout(io.StringIO()):
            run(
                ["curate", f"--root={pictures}", f"--output={folder / 'sheet'}",
                 f"--labels={folder / 'labels'}", f"--cache={cache}", f"--tagging={cache}"]
            )  # fmt: skip
        again = time.perf_counter() - start
    rows.append(
        {"name": f"{kind}: looked at", "value": rate, "unit": "pictures/s", "baseline": base,
         "ratio": rate / base, "cpu": cost}
    )  # fmt: skip
    rows.append(
        {"name": f"{count} of {kind}: whole second run", "value": again, "unit": "s",
         "baseline": count / rate, "ratio": again * rate / count}
    )  # fmt: skip
    show(rows)
    return rows


def photographs() -> list[Image.Image]:
    """Return photographs and drawings, and the quarters of each."""
    import skimage.data

    names = (
        "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "coins.png",
        "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg", "page.png",
        "text.png", "grass.png", "gravel.png", "brick.png", "color.png",
    )  # fmt: skip
    found = []
    for name in names:
        whole = Image.open(Path(skimage.data.__file__).parent / name).convert("RGB")
        w, h = whole.size
        found.append(whole)
        found += [
            whole.crop((x, y, x + w // 2, y + h // 2)) for x in (0, w // 2) for y in (0, h // 2)
        ]
    return found


def framed(image: Image.Image, share: float) -> Image.Image:
    """Return a picture in a white frame."""
    w, h = image.size
    canvas = Image.new("RGB", (round(w * (1 + share)), round(h * (1 + share))), "white")
    canvas.paste(image, (round(w * share / 2), round(h * share / 2)))
    return canvas


def marked(image: Image.Image) -> Image.Image:
    """Return a picture with a white bar, as for a name."""
    image, (w, h) = image.copy(), image.size
    image.paste("white", (int(0.6 * w), int(0.9 * h), int(0.98 * w), int(0.97 * h)))
    return image


def cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Return a picture without shares of its sides."""
    w, h = image.size
    return image.crop(
        (round(left * w), round(top * h), w - round(right * w), h - round(bottom * h))
    )


EDITS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "JPEG of quality 30": (lambda i: i, 30),
    "half the size, quality 50": (lambda i: i.resize((i.width // 2, i.height // 2)), 50),
    "a quarter of the size": (lambda i: i.resize((i.width // 4, i.height // 4)), 90),
    "30 % brighter": (lambda i: i.point(lambda value: 1.3 * value), 90),
    "40 % darker": (lambda i: i.point(lambda value: 0.6 * value), 90),
    "in gray": (lambda i: i.convert("L"), 90),
    "5 % cut off around": (lambda i: cut(i, 0.025, 0.025, 0.025, 0.025), 90),
    "5 % cut off at one side": (lambda i: cut(i, 0.05, 0, 0, 0), 90),
    "10 % cut off around": (lambda i: cut(i, 0.05, 0.05, 0.05, 0.05), 90),
    "a white frame of 4 %": (lambda i: framed(i, 0.04), 90),
    "a bar over 3 %": (marked, 90),
}


def recall() -> list[dict[str, Any]]:
    """Measure which edited copies are found, beside the hash alone; and what is wrongly alike."""
    from elf.curation.facts import look_at
    from elf.curation.policy import Policy
    from elf.curation.proposals import propose
    from elf.curation.scan import Picture

    def picture(number: int, image: Image.Image, quality: int) -> Picture:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Picture(f"{number:064x}"[::-1], (str(number),), look_at(buffer.getvalue())[0])

    originals = photographs()
    count = len(originals)
    base = [picture(number, image, 97) for number, image in enumerate(originals)]
    rows, wrong, pairs = [], 0, 0
    for name, (edit, quality) in EDITS.items():
        copies = [
            picture(count + number, edit(image), quality) for number, image in enumerate(originals)
        ]
        shares = []
        for crops in (True, False):
            leaders = [entry.leader for entry in propose(base + copies, {}, Policy(crops=crops))]
            found = sum(leaders[number] == leaders[count + number] for number in range(count))
            shares.append(100 * found / count)
            if crops:
                kinds: dict[str, set[int]] = {}
                for number, leader in enumerate(leaders):
                    kinds.setdefault(leader, set()).add(number % count)
                wrong += sum(len(kind) * (len(kind) - 1) // 2 for kind in kinds.values())
                pairs += 2 * count * (count - 1)
        rows.append(
            {"name": f"found: {name}", "value": shares[0], "unit": "%", "baseline": shares[1],
             "ratio": shares[0] / max(shares[1], 1.0)}
        )  # fmt: skip
    rows.append(
        {"name": f"wrongly alike, of {pairs} pairs", "value": wrong, "unit": "pairs",
         "baseline": pairs, "ratio": wrong / pairs}
    )  # fmt: skip
    show(rows)
    return rows


def about() -> dict[str, Any]:
    """Return where and with what the figures were taken."""
    import PIL
    import scipy

    return {
        "date": datetime.date.today().isoformat(),
        "card": None,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pillow": PIL.__version__,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    for row in rows:
        unit_cpu = "ms" if row["unit"] == "pictures/s" else "s"
        cpu = f"  cpu {row['cpu']:.1f} {unit_cpu}" if "cpu" in row else ""
        found = f"  found {row['found']}" if "found" in row else ""
        value = f"{row['value']:9.2f} {row['unit']:<11}×{row['ratio']:.2f}"
        print(f"{row['name']:<72}{value}{cpu}{found}", flush=True)


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--count", type=int, default=100_000, help="pictures of the searches")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], options.one[1], int(options.one[2]))
        return
    rows = recall() + looking("1-2 MP", 400) + looking("4 MP", 100) + searches(options.count)
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
