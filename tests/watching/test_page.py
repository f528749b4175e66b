"""The run's page: what it shows is there, and what strangers wrote stays text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from elf.images import write_png
from elf.watching.page import facts, write_page
from elf.watching.plots import write_plots

PROMPT = "<script>alert(1)</script>, wood_elf"
PICTURE = "samples/step-000000/00-strength-1.png"


def page(folder: Path) -> str:
    (folder / "metrics.csv").write_text("step,val/loss,val/ratio\n40,0.5,0.9\n80,0.6,1.1\n")
    (folder / "config.yaml").write_text("model: <b>\n")
    (folder / "samples.csv").write_text(
        "step,prompt,negative_prompt,seed,strength,picture\n"
        f'0,"{PROMPT}",,3,1.0,{PICTURE}\n0,"{PROMPT}",night,3,0.0,{PICTURE}\n'
    )
    write_png(folder / PICTURE, Image.new("RGB", (64, 64)))
    write_plots(folder)
    write_page(folder)
    return (folder / "index.html").read_text("utf-8")


class Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [str(value) for key, value in attrs if key in ("src", "href")]


def test_all_that_it_shows_lies_beside_it(tmp_path: Path) -> None:
    sources = Sources()
    sources.feed(page(tmp_path))
    assert unquote(PICTURE) in sources.found and "plots/ratio.png" in sources.found
    for source in sources.found:
        assert (tmp_path / unquote(source)).is_file(), source
    assert "https:" not in (tmp_path / "index.html").read_text("utf-8")


def test_texts_stay_texts(tmp_path: Path) -> None:
    text = page(tmp_path)
    sources = Sources()
    sources.feed(text)
    assert "script" not in sources.tags and "b" not in sources.tags
    assert "&lt;script&gt;alert(1)" in text and "seed 3 · not: night</small>" in text
    assert not re.search(r"\$\w", text), "nothing of the template is left"


def test_the_figures_that_say_most_come_first() -> None:
    found = dict(facts({"val/loss": [(40, 0.5), (80, 0.6)], "val/ratio": [(80, 1.1)]}))
    assert found["least, after step 41"] == "0.5"
    assert found["validation loss"] == "0.6" and found["… of the base's"] == "110.0%"
    assert facts({}) == []


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    write_page(tmp_path)
    assert tmp_path.name in (tmp_path / "index.html").read_text("utf-8")
