"""The sheet stands alone, shows every picture, and cannot be tricked by a file's name."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from elf.curation.contactsheet import PARTS, write_sheet
from elf.curation.facts import Facts
from elf.curation.proposals import Entry
from elf.curation.quality import FLAGS, Figures
from elf.curation.scan import Picture
from elf.curation.verdicts import Verdict

FACTS = Facts(800, 600, 90_000, "JPEG", 90, Figures(0.2, 7.0, 0.9, 0.1, 0.5), 1.0, b"", b"")
NASTY = "</script><script>alert(1)</script><!--.png"


def entry(number, path, leader=None, **changes):
    picture = Picture(f"{number:064x}"[::-1], (path,), FACTS)
    first = f"{number if leader is None else leader:064x}"[::-1][:16]
    values = {"flags": (), "alike": "", "reason": None, "verdict": None} | changes
    return Entry(picture, leader=first, **values)


ENTRIES = [
    entry(0, "a.png", flags=("blurry", "small")),
    entry(1, "sub/b & c.png", leader=0, alike="3 of 255 bits differ", reason="like a.png"),
    entry(2, NASTY, verdict=Verdict(False, by_person=True)),
    entry(3, os.fsdecode(b"f\xfcr.png")),
]


class Page(HTMLParser):
    """What a browser sees."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.addresses, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def written(tmp_path, entries=ENTRIES, bad=None, root="raw", output="sheet"):
    (tmp_path / root).mkdir(exist_ok=True)
    path = write_sheet(tmp_path / output, tmp_path / root, entries, bad or {}, ("blurry",))
    page = Page(path.read_text("utf-8"))
    assert len(page.scripts) == 2
    return page, json.loads(page.scripts[0])


def test_the_sheet_holds_every_picture(tmp_path):
    _, data = written(tmp_path, bad={"broken.jpg": "damaged"})
    rows = data["pictures"]
    assert [row[0] for row in rows] == [entry.picture.id for entry in ENTRIES]
    assert rows[0][1:6] == [["a.png"], 800, 600, 90_000, "JPEG 90"]
    assert rows[0][6:9] == [[0, FLAGS.index("small")], 0, ""]
    assert rows[1][7:10] == [0, "3 of 255 bits differ", "like a.png"]
    assert [row[10:] for row in rows] == [[None, False]] * 2 + [[False, True], [None, False]]
    assert data["bad"] == [["broken.jpg", "damaged"]]
    assert (data["flags"], data["drops"]) == (list(FLAGS), ["blurry"])


def test_names_stay_data(tmp_path):
    page, data = written(tmp_path, bad={NASTY: "</script>"})
    assert data["pictures"][2][1] == [NASTY]
    assert "alert(1)" not in page.scripts[1]
    assert "innerHTML" not in (PARTS / "script.js").read_text()


def test_a_name_that_is_no_text_has_its_address(tmp_path):
    _, data = written(tmp_path)
    assert data["links"] == {ENTRIES[3].picture.paths[0]: "f%FCr.png"}


@pytest.mark.parametrize(
    ("root", "output", "base"),
    [("raw", "sheet", "../raw/"), ("raw & more", "a/b", "../../raw%20%26%20more/")],
)
def test_pictures_are_found_from_where_the_sheet_is(tmp_path, root, output, base):
    _, data = written(tmp_path, root=root, output=output)
    assert data["base"] == base


def test_another_drive_gets_a_whole_address(tmp_path, monkeypatch):
    def elsewhere(*_):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("elf.curation.contactsheet.os.path.relpath", elsewhere)
    _, data = written(tmp_path)
    assert data["base"] == (tmp_path / "raw").as_uri() + "/"


def test_the_sheet_needs_nothing_from_elsewhere(tmp_path):
    page, _ = written(tmp_path)
    assert page.addresses == []  # styles and scripts are inside
    text = (tmp_path / "sheet" / "index.html").read_text()
    assert "http:" not in text and "https:" not in text and "//cdn" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"/\* (style\.css|script\.js|data) \*/", text)
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    written(tmp_path)
    first = (tmp_path / "sheet" / "index.html").read_bytes()
    written(tmp_path)
    assert (tmp_path / "sheet" / "index.html").read_bytes() == first


def test_the_script_reads_the_columns_that_are_written(tmp_path):
    _, data = written(tmp_path)
    script = Path(PARTS / "script.js").read_text()
    names = re.search(r"const \[(.*?)\] =\s*Array\((\d+)\)", script, re.DOTALL)
    assert len(names[1].split(",")) == int(names[2]) == len(data["pictures"][0])


def test_no_pictures_are_a_sheet_too(tmp_path):
    _, data = written(tmp_path, entries=[], bad={"a.png": "damaged"})
    assert data["pictures"] == [] and len(data["bad"]) == 1


def test_the_viewer_leaves_the_scroll_bar_and_the_browsers_keys_alone(tmp_path):
    text = write_sheet(tmp_path, tmp_path, ENTRIES, {}, ()).read_text("utf-8")
    assert "100vw" not in text and "body:has(dialog[open]) { overflow: hidden; }" in text
    keys = text.index('addEventListener("keydown"')
    assert keys < text.index("if (event.ctrlKey || event.metaKey") < text.index('=== "d"')
