"""A run's folder as a page: pictures over time, charts, configuration; ``index.html``.

It opens from the disk, on a phone too, and needs no network: what it shows lies beside it.
"""

import csv
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from elf.files import write_atomic
from elf.watching.answers import answers
from elf.watching.plots import Columns, read_columns

PAGE = "index.html"
TEXTS = (("config.yaml", "configuration"), ("environment.json", "environment"),
         ("data.json", "data"))  # fmt: skip
FILES = (
    "metrics.csv", "speed.csv", "samples.csv", "config.yaml", "environment.json", "data.json",
    "adapter/*.safetensors", "checkpoints/*.ckpt",
)  # fmt: skip
SMALL = 128  # px; shorter pictures are shown with their pixels as squares


def write_page(folder: Path) -> None:
    """Write the page of a run's folder from what lies there."""
    parts = {
        "title": escape(folder.absolute().name),
        "facts": "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
            for name, value in facts(read_columns(folder))
        ),
        "samples": _samples(folder),
        "plots": _plots(folder),
        "details": "".join(_details(folder / name, title) for name, title in TEXTS),
        "files": "".join(_link(folder, path) for path in _present(folder)),
    }
    template = Template((Path(__file__).parent / "page.html").read_text("utf-8"))
    write_atomic(folder / PAGE, template.substitute(parts))


def facts(columns: Columns) -> list[tuple[str, str]]:
    """Return the figures that say most, by their names."""
    found: list[tuple[str, str]] = []
    loss, ratio = columns.get("val/loss", ()), columns.get("val/ratio", ())
    if steps := [int(points[-1][0]) for points in columns.values()]:
        found.append(("steps logged", f"{max(steps) + 1:,}"))
    if epochs := columns.get("data/epoch"):
        found.append(("epochs", f"{epochs[-1][1]:.1f}"))
    if loss:
        step, least = min(loss, key=lambda point: point[1])
        found.append(("validation loss", f"{loss[-1][1]:.4g}"))
        # rows are counted from 0, checkpoints and sample pictures by the steps that are done
        found.append((f"least, after step {int(step) + 1:,}", f"{least:.4g}"))
    if ratio:
        found.append(("… of the base's", f"{ratio[-1][1]:.1%}"))
    for key, name, unit in (
        ("adapter/all", "update / weight", ""),
        ("val/perplexity", "perplexity", ""),
        ("speed/pictures_per_s", "pictures / s", ""),
        ("speed/tokens_per_s", "tokens / s", ""),
        ("memory/peak_gib", "memory", " GiB"),
    ):
        if points := columns.get(key):
            value = points[-1][1]
            found.append((name, f"{value:,.0f}" if value >= 1000 else f"{value:.3g}{unit}"))
    return found


def _samples(folder: Path) -> str:
    path = folder / "samples.csv"
    if not path.is_file():
        return ""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "answer" in rows[0]:
        return answers(rows)
    prompts: dict[tuple[str, ...], dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        place = Path(row["picture"]).name.split("-")[0]  # one prompt may be asked for twice
        key = (place, row["prompt"], row["negative_prompt"], row["seed"])
        prompts.setdefault(key, {}).setdefault(row["strength"], []).append(row)
    text = "<h2>Pictures</h2>"
    for (_, prompt, negative, seed), strips in prompts.items():
        note = f"seed {seed}" + (f" · not: {negative}" if negative else "")
        text += f"<h3>{escape(prompt)} <small>{escape(note)}</small></h3>"
        for strength, shown in strips.items():
            if len(strips) > 1:
                name = "base" if float(strength) == 0 else f"strength {float(strength):g}"
                text += f'<p class="note">{name}</p>'
            text += f'<div class="strip">{"".join(map(_figure, shown))}</div>'
    return text


def _figure(row: dict[str, str]) -> str:
    source = quote(row["picture"])
    return (
        f'<figure><a href="{source}"><img loading="lazy" src="{source}" alt="" '
        f"onload=\"if (this.naturalHeight < {SMALL}) this.className = 'small'\"></a>"
        f"<figcaption>step {int(row['step']):,}</figcaption></figure>"
    )


def _plots(folder: Path) -> str:
    order = ["loss", "ratio", "strata", "validation_strata", "adapter", "gradient_norm"]
    found = {path.stem: path for path in sorted((folder / "plots").glob("*.png"))}
    names = [name for name in order if name in found] + [n for n in found if n not in order]
    images = "".join(
        f'<img loading="lazy" src="plots/{quote(name)}.png" alt="{escape(name)}">' for name in names
    )
    return f'<h2>Charts</h2><div class="plots">{images}</div>' if images else ""


def _details(path: Path, title: str) -> str:
    if not path.is_file():
        return ""
    text = escape(path.read_text("utf-8", errors="replace"))
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"


def _present(folder: Path) -> Iterable[Path]:
    return (path for pattern in FILES for path in sorted(folder.glob(pattern)))


def _link(folder: Path, path: Path) -> str:
    name = path.relative_to(folder).as_posix()
    size = path.stat().st_size
    shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(size / 1e3, 0.1):.1f} kB"
    return f'<li><a href="{quote(name)}">{escape(name)}</a> ({shown})</li>'
