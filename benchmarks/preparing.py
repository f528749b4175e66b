"""How fast pictures become shards, against a plain loop of Pillow and tarfile in one process.

Both write the same: pictures of 512 px² in their buckets with captions, and latents, in tars; both
hand their pixels to a model, which is one that costs nothing. Pictures that have their bucket's
size are stored as they are by both. Elf also hashes every picture twice (what is it, is it still
that), checks that each is whole, hashes and indexes the shards and syncs them to the disk; it
encodes from the shards, so it decodes each picture once more.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import skimage.data
from PIL import Image, ImageOps

from elf.preparation.buckets import make_buckets, place
from elf.preparation.prepare import prepare
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings

SIZES = {
    "1-2 MP": (1280, 960),
    "4 MP": (2400, 1700),
    "16 MP": (4600, 3400),
    "in bucket": (576, 448),
}
COUNTS = {"1-2 MP": 96, "4 MP": 64, "16 MP": 24, "in bucket": 400}
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


class NoModels:
    """An encoder that costs nothing: what is measured are pictures."""

    latent_factor = 8

    def encode_pictures(self, pixels: Any) -> Any:
        """Return latents of the right shape."""
        small = pixels[:, :1, ::8, ::8].repeat(1, 4, 1, 1)
        return small, small.abs()

    def encode_captions(self, captions: list[str]) -> Any:
        """Return states of one value."""
        import torch

        return {"text": torch.zeros(len(captions), 1, 1)}

    def fingerprints(self) -> dict[str, str]:
        """Return names of models that are none."""
        return {"vae": "none", "text": "none"}


def make_pictures(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write JPEGs of parts of photographs, in landscape and in portrait, with captions."""
    folder.mkdir()
    source = Path(skimage.data.__file__).parent
    photographs = [Image.open(source / name).convert("RGB") for name in PHOTOGRAPHS]
    draw = np.random.default_rng(0)
    for number in range(count):
        image = photographs[number % len(photographs)]
        edge = int(draw.integers(200, min(image.size)))
        x, y = (int(draw.integers(0, length - edge + 1)) for length in image.size)
        this = size if number % 2 else size[::-1]
        crop = image.crop((x, y, x + edge, y + edge)).resize(this, Image.Resampling.BICUBIC)
        noise = draw.integers(-12, 13, (*this[::-1], 3), np.int16)  # a camera's, or files are tiny
        pixels = np.clip(np.asarray(crop, np.int16) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)
        (folder / f"{number:05}.txt").write_text(f"photograph {number}")


def plain_loop(pictures: Path, folder: Path) -> None:
    """Do it with Pillow and tarfile, one picture after the other."""
    import torch

    buckets, model = make_buckets(512), NoModels()
    with (
        tarfile.open(folder / "pictures.tar", "w") as shard,
        tarfile.open(folder / "latents.tar", "w") as latents,
    ):
        for path in sorted(pictures.glob("*.jpg")):
            data, suffix = path.read_bytes(), "jpg"
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            placed = place(image.size, buckets)
            if image.size != placed.bucket:
                box = placed.box(image.size)
                image = image.resize(placed.bucket, Image.Resampling.LANCZOS, box=box)
                buffer = io.BytesIO()
                image.save(buffer, "PNG", compress_level=4)
                data, suffix = buffer.getvalue(), "png"
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
            buffer = io.BytesIO()
            np.save(buffer, torch.stack(model.encode_pictures(pixels)).half().numpy())
            add(shard, f"{path.stem}.{suffix}", data)
            add(shard, f"{path.stem}.txt", path.with_suffix(".txt").read_bytes())
            add(latents, f"{path.stem}.npy", buffer.getvalue())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def elf(pictures: Path, shards: Path, workers: int) -> None:
    """Do it by Elf."""
    settings = Settings(held_out=0.0, sets=(PictureSet(str(pictures)),))
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(NoModels(), settings, shards=shards, workers=workers)


def measure(function: Callable[[], None]) -> tuple[float, float]:
    """Return a call's seconds, and how many cores it kept busy."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    seconds = time.perf_counter() - start
    return seconds, (time.process_time() - cpu) / seconds


def compare(folder: Path, kind: str, repeats: int) -> list[dict[str, Any]]:
    """Measure all ways over one kind of pictures, in turn; return rows."""
    pictures, count = folder / kind.replace(" ", ""), COUNTS[kind]
    make_pictures(pictures, SIZES[kind], count)
    rates: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {}
    for number in range(repeats + 1):  # the first round fills caches
        work = folder / f"{pictures.name}-{number}"
        work.mkdir()
        ways: dict[str, Callable[[], None]] = {
            "plain PIL": lambda work=work: plain_loop(pictures, work),
            **{
                f"elf prepare, {workers} threads": lambda work=work, workers=workers: elf(
                    pictures, work / f"shards{workers}", workers
                )
                for workers in (1, 2, 4)
            },
            "elf prepare, nothing changed": lambda work=work: elf(pictures, work / "shards4", 4),
        }
        for name, way in ways.items():
            seconds, cores = measure(way)
            if number:
                rates.setdefault(name, []).append(count / seconds)
                busy.setdefault(name, []).append(cores)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base = medians["plain PIL"]
    return [
        {"name": f"{kind}: {name}", "value": value, "unit": "pictures/s", "baseline": base,
         "ratio": value / base, "cores_busy": statistics.median(busy[name])}
        for name, value in medians.items()
    ]  # fmt: skip


def about() -> dict[str, Any]:
    """Return where and with what the figures were taken."""
    import webdataset

    return {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "webdataset": webdataset.__version__,
    }


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; their median counts")
    parser.add_argument("--kinds", nargs="*", default=list(SIZES), choices=list(SIZES))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for kind in options.kinds:
            rows += compare(Path(name), kind, options.repeats)
    for row in rows:
        value = f"{row['value']:9.2f} {row['unit']:<11}×{row['ratio']:.2f}"
        print(f"{row['name']:<42}{value}  {row['cores_busy']:.2f} cores busy")
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
