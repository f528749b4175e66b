"""How much memory labelling takes, over folders of different sizes.

python benchmarks/labelling_memory.py 1000 20000 --json memory.json
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from labelling import about, elf, make_tagger
from PIL import Image


def memory(counts: list[int]) -> list[dict[str, Any]]:
    """Measure the peak memory of a first run and a rerun over folders of different sizes."""
    rows: list[dict[str, Any]] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, __file__, "--folder", name, str(count)]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for what, peak in json.loads(lines.splitlines()[-1]).items():
            rows.append({"name": f"{what}, {count} pictures", "value": peak, "unit": "MiB"})
    for row in rows:
        first = next(
            other for other in rows if other["name"].split(",")[0] == row["name"].split(",")[0]
        )
        row |= {"baseline": first["value"], "ratio": row["value"] / first["value"]}
    return rows


def memory_of(count: int, folder: Path) -> None:
    """Label small pictures, twice, and print the peaks as JSON."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(count):
        pixels = np.full((16, 16, 3), number % 256, np.uint8)
        pixels[0, :3] = [number >> 16, number >> 8 & 255, number & 255]
        Image.fromarray(pixels).save(pictures / f"{number:05}.png", compress_level=1)
    tagger = make_tagger(folder / "tagger")
    peaks = {}
    for what, options in {"first run": {}, "rerun": {"skip_existing": False}}.items():
        elf(pictures, tagger, folder / "work", "fast", **options)
        peaks[what] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(peaks))


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", type=int, nargs="+", help="pictures of each folder")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        memory_of(options.counts[0], options.folder)
        return
    rows = memory(options.counts)
    for row in rows:
        print(f"{row['name']:<32}{row['value']:9.1f} {row['unit']:<6}×{row['ratio']:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
