"""How long `elf --help` takes, against a bare interpreter and against LightningCLI's help.

python benchmarks/startup.py --json startup.json
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def median_seconds(code: str, repeats: int) -> float:
    """Return the median wall time of a new interpreter that runs some code, s."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one fills the disk cache


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    bare = median_seconds("pass", 21)
    ours = median_seconds("import elf.cli; elf.cli.main(['--help'])", 21)
    cli = median_seconds(
        "import sys; sys.argv = ['x', '--help']\n"
        "from lightning.pytorch.cli import LightningCLI\n"
        "try: LightningCLI()\nexcept SystemExit: pass",
        3,
    )
    rows = [
        {"name": "python -c pass", "value": bare, "unit": "s", "baseline": bare, "ratio": 1.0},
        {"name": "elf --help", "value": ours, "unit": "s", "baseline": bare, "ratio": ours / bare},
        {
            "name": "LightningCLI --help",
            "value": cli,
            "unit": "s",
            "baseline": ours,
            "ratio": cli / ours,
        },
    ]
    for row in rows:
        print(f"{row['name']:<24}{row['value']:8.3f} {row['unit']}  ×{row['ratio']:.2f}")
    if options.json:
        about = {
            "date": datetime.date.today().isoformat(),
            "card": None,
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
