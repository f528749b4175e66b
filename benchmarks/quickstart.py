"""How long `elf quickstart` trains and takes in all, as LoRA and as DoRA, and what it reached.

python benchmarks/quickstart.py --json quickstart.json
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from elf.quickstart import STEPS

FIGURES = (
    "concept_rate",
    "attributes",
    "concept_rate_{}_without_trigger",
    "attributes_{}_without_trigger",
)


def quickstart(folder: Path, kind: str, steps: int) -> dict[str, Any]:
    """Run the command in a process of its own and return its summary."""
    command = [sys.executable, "-m", "elf.cli", "quickstart", "--output", str(folder)]
    subprocess.run([*command, "--adapter", kind, "--steps", str(steps)], check=True)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, to try this script")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def row(name: str, value: float, unit: str, baseline: float) -> None:
        ratio = value / baseline if baseline else None
        rows.append(
            {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
        )

    with tempfile.TemporaryDirectory() as folder:
        summaries = {
            kind: quickstart(Path(folder) / kind, kind, options.steps) for kind in ("lora", "dora")
        }
    lora = summaries["lora"]
    for kind, summary in summaries.items():
        row(f"{kind}: training", summary["train_seconds"], "s", lora["train_seconds"])
        whole, first = (sum(s["seconds"].values()) for s in (summary, lora))
        row(f"{kind}: in all", whole, "s", first)
        for name in FIGURES:
            form = name if "{}" in name else name + "_{}"
            base, adapter = (summary[form.format(side)] for side in ("base", "adapter"))
            row(f"{kind}: {form.format('adapter')}", adapter, "share", base)
    for entry in rows:
        ratio = "" if entry["ratio"] is None else f"  ×{entry['ratio']:.3f}"
        print(f"{entry['name']:<46}{entry['value']:9.3f} {entry['unit']:<6}{ratio}")
    if options.json:
        names = ("torch", "lightning", "diffusers", "peft")
        about = {
            "date": datetime.date.today().isoformat(),
            "card": None,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in names},
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
