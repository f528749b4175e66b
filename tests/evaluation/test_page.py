"""The report: every fact is in it, nothing is fetched, and what strangers wrote stays text."""

import base64
import hashlib
import re
import shutil
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from elf.errors import ElfError
from elf.evaluation.page import write_report

Changed = Callable[[Callable[[dict[str, Any]], object]], Path]

VOID = {"meta", "img", "input", "br"}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
SECTIONS = ["pairs", "strengths", "curve", "rates", "trigger", "nearest", "loss", "rows", "skipped",
            "compared", "made"]  # fmt: skip


class Page(HTMLParser):
    """Reads a page; complains of a tag that is not closed, or closed by another."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, str] = {}
        self.section = "head"
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        names = [key for key, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        if tag == "section":
            self.section = str(dict(attrs)["id"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts[self.section] = self.texts.get(self.section, "") + data + " "

    def values(self, key: str) -> list[str]:
        return [value for _, each, value in self.attributes if each == key]

    def text(self, section: str) -> str:
        return " ".join(self.texts[section].split())


def page(folder: Path) -> tuple[str, Page]:
    path = write_report(folder)
    assert path == folder / "report.html"
    text = path.read_text("utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def whole(_drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    """The sample's page, written once."""
    return page(shutil.copytree(_drawn, tmp_path_factory.mktemp("whole") / "sample"))


def test_the_verdict_comes_first(whole: tuple[str, Page]) -> None:
    head = whole[1].text("head")
    for said in (
        "Indicative : 16 pictures a side; 40 are needed.",
        "good wood_elf Use strength 0.7 (0.7 to 1 are as good)",
        "Follows the prompt as well as the base: −0.004 [−0.016, 0.008].",
        "memorised wood_elf_long No strength is recommended",
        "8 prompts × 2 seeds × 9 variants · 144 pictures",
    ):
        assert said in head, said


def test_the_sections_are_in_order_and_linked(whole: tuple[str, Page]) -> None:
    found = whole[1]
    identities = found.values("id")
    assert [each for each in identities if each in SECTIONS] == SECTIONS
    assert len(identities) == len(set(identities)), "no id twice"
    assert [each for each in found.values("href")] == [f"#{each}" for each in SECTIONS]


def test_each_picture_is_in_the_page_once_and_shown_where_it_belongs(
    whole: tuple[str, Page],
) -> None:
    text, found = whole
    numbers = [each for each in found.values("id") if re.fullmatch(r"p\d+", each)]
    assert len(numbers) == 144 + 6
    assert len([each for each in found.values("src") if each.startswith("data:image/")]) == 150
    assert set(found.values("data-same")) <= set(numbers)
    captions = found.values("alt")
    for caption, times in (
        ("wood_elf, forest · seed 1 · base", 3),  # pairs and the grid of both adapters
        ("wood_elf, forest · seed 0 · wood_elf · strength 0.7", 4),  # pair, grid, trigger, nearest
        ("city, sunset · seed 1 · wood_elf · strength 1.3", 1),
    ):
        assert captions.count(caption) == times, caption
    pairs = text[text.index('id="pairs"') : text.index('id="strengths"')]
    assert pairs.count('class="shot"') == 8 * 2 * 3
    grids = text[text.index('id="strengths"') : text.index('id="curve"')]
    assert grids.count("<details") == 8 and grids.count("<details open") == 1
    assert grids.count('class="shot"') == 8 * 2 * 2 * 5
    assert grids.count("<td class=best>") == 8 * 2, "the recommended strength of wood_elf alone"


def test_the_curves_say_their_values(whole: tuple[str, Page]) -> None:
    text, found = whole
    said = " ".join(found.values("aria-label"))
    assert "strength 0.7: +0.160 [+0.130, +0.190]" in said
    assert "strength 1.3: −0.052 [−0.064, −0.040]" in said
    assert "strength 0.7: 62.5\u00a0%" in said and "base: 11.0\u00a0%" in said
    assert "timestep 62: 0.412" in said
    curve = text[text.index('id="curve"') : text.index('id="rates"')]
    assert curve.count("use 0.7") == 1 and curve.count('class="band"') == 1
    assert curve.count("<svg") == 2
    assert text[text.index('id="loss"') : text.index('id="rows"')].count("<svg") == 2


def test_trigger_and_nearest(whole: tuple[str, Page]) -> None:
    text, found = whole
    trigger = found.text("trigger")
    assert "wood_elf × 0.7 Concept 0.0 % 62.5 % 0.0 % 6.2 %" in trigger
    assert "wood_elf, snow, night off: snow, night · seed 0" in trigger
    part = text[text.index('id="trigger"') : text.index('id="nearest"')]
    assert part.count('<table class="grid switch"') == 4 and part.count('class="shot"') == 24
    nearest = found.text("nearest")
    assert nearest.startswith("Nearest training pictures 3 of 32 pictures copy")
    order = [float(each) for each in re.findall(r"<b>(0\.\d\d)</b>", text)]
    assert len(order) == 32 and order == sorted(order, reverse=True)
    assert nearest.count("copy wood_elf_long") == 3
    assert "20 less alike" in nearest


def test_the_table_has_every_row(whole: tuple[str, Page]) -> None:
    text, found = whole
    rows = found.text("rows")
    assert "wood_elf × 0.7 0.520 0.680 +0.160 [+0.130, +0.190] 16 of 40 needed indicative" in rows
    assert "cosine to the training pictures · ↑ higher is better · DINOv2 to 24 training" in rows
    assert "wood_elf × 0.7 0.440 0.410 −0.030 [−0.060, 0.000] 16 (4 needed)" in rows
    assert "wood_elf × 0.7 0.0140" in rows
    part = text[text.index('id="rows"') : text.index('id="skipped"')]
    assert len(re.findall(r'<tr class="(?!metric)', part)) == 17 * 8
    assert part.count('class="bar ') == 14 * 8
    assert part.count('<tr class="indicative') == 11 * 8
    assert len(re.findall(r'<tr class="[a-z ]*other"', part)) == 17 * 6
    assert found.text("skipped") == (
        "Not measured FID fid : needs pt_inception-2015-12-05.pth (95 MB), get it with"
        " elf prepare --weights inception"
    )


def test_what_only_some_variants_lack_names_them(changed: Changed) -> None:
    folder = changed(lambda found: found["rows"].pop())
    assert "FID fid (wood_elf × 0.4, wood_elf × 0.7," in page(folder)[1].text("skipped")


def test_adapters_are_compared_and_the_surely_better_one_marked(whole: tuple[str, Page]) -> None:
    compared = whole[1].text("compared")
    assert "wood_elf × 0.7 good wood_elf_long × 1.3 memorised" in compared
    assert "held_out_loss 0.1202 best −0.0110 [−0.0150, −0.0070] 0.1352 +0.0040" in compared
    assert "kid 0.0262 −0.0150 [−0.0210, −0.0090] 0.0302 −0.0110" in compared, "they overlap"
    assert "nearest_similarity 0.430 +0.120" in compared, "neither direction is better"


def test_what_it_was_made_from(whole: tuple[str, Page]) -> None:
    made = whole[1].text("made")
    assert "model.negative_prompt null data.seeds [0, 1]" in made
    assert "model.base models/tiny" in made
    assert "wood_elf ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" in made
    assert "torch 2.14.0" in made


def test_nothing_is_fetched(whole: tuple[str, Page]) -> None:
    text, found = whole
    for key in ("src", "href", "data", "poster", "srcset", "action"):
        for value in found.values(key):
            assert value.startswith(("data:image/", "#")), value
    shown = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//[\w.]+\.|url\(|@import|fetch\(|XMLHttp|import\(", shown)
    policy = next(value for value in found.values("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy, "or its own script would not run"


def test_what_strangers_wrote_stays_text(changed: Changed) -> None:
    def spoil(found: dict[str, Any]) -> None:
        verdict = found["verdict"]
        verdict["why"] = EVIL
        verdict["adapters"][0].update(kind=EVIL, line=EVIL, reasons=[EVIL], adapter=EVIL)
        found["plan"]["prompts"][:] = [EVIL + str(n) for n in range(8)]
        for each in found["variants"]:
            each["name"] = EVIL + each["name"]
            if each["adapter"] == "wood_elf":
                each["adapter"] = EVIL
        for where in ("rows", "pictures", "nearest", "loss"):
            for each in found[where]:
                each["variant"] = EVIL + each["variant"]
        for each in found["rows"]:
            each["note"] += EVIL
        found["rows"][0]["name"] = EVIL
        found["pictures"][0]["file"] = EVIL.replace("/", "") + ".png"
        found["settings"] = {EVIL: EVIL, "list": [EVIL]}
        found["hashes"], found["versions"] = {EVIL: EVIL}, {EVIL: "$style $title /* script */"}

    text, found = page(changed(spoil))
    assert found.tags.count("script") == 1 and not found.values("onerror")
    assert "alert(2)>" not in text and "<script>alert" not in text
    assert unescape(text).count(EVIL) > 50
    assert "$style $title /* script */" in text
    assert "x" not in found.values("src")
    assert not re.search(r"\$[a-z]", text.replace("$style $title", ""))


def test_sections_without_data_vanish(changed: Changed) -> None:
    def empty(found: dict[str, Any]) -> None:
        for name in ("rows", "pictures", "nearest", "loss"):
            found[name] = []
        for name in ("settings", "hashes", "versions"):
            found[name] = {}
        found["verdict"].update(indicative=False, why=None)

    text, found = page(changed(empty))
    assert "<section" not in text and found.values("href") == []
    assert "Indicative" not in found.text("head")


VANISHING: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("nearest", lambda found: found.update(nearest=[])),
    ("loss", lambda found: found.update(loss=[])),
    ("skipped", lambda found: found.update(rows=[r for r in found["rows"] if r["name"] != "fid"])),
    ("rates", lambda found: found.update(
        rows=[r for r in found["rows"] if "concept" not in r["name"] and "att" not in r["name"]])),
    ("curve", lambda found: found.update(
        rows=[r for r in found["rows"] if "sub" not in r["name"] and "prompt" not in r["name"]])),
    ("made", lambda found: found.update(settings={}, hashes={}, versions={})),
]  # fmt: skip


@pytest.mark.parametrize(("gone", "edit"), VANISHING, ids=[name for name, _ in VANISHING])
def test_one_section_alone_vanishes(
    changed: Changed, gone: str, edit: Callable[[dict[str, Any]], object]
) -> None:
    there = [each[1:] for each in page(changed(edit))[1].values("href")]
    assert there == [each for each in SECTIONS if each != gone]


def test_one_adapter_at_one_strength_is_a_plain_page(changed: Changed) -> None:
    def keep_one(found: dict[str, Any]) -> None:
        kept = {"base", "wood_elf x 0.7"}
        found["variants"] = [each for each in found["variants"] if each["name"] in kept]
        for where in ("rows", "pictures", "nearest", "loss"):
            found[where] = [each for each in found[where] if each["variant"] in kept]
        found["verdict"]["adapters"].pop()

    text, found = page(changed(keep_one))
    there = [each[1:] for each in found.values("href")]
    assert there == [each for each in SECTIONS if each not in ("strengths", "compared")]
    assert 'id="every"' not in text, "there are no further strengths"


def test_a_missing_picture_is_a_visible_gap(sample: Path) -> None:
    (sample / "pictures/base/0000.png").unlink()
    (sample / "pictures/base/0001.png").write_bytes(b"no picture")
    text, found = page(sample)
    assert "pictures/base/0000.png: missing" in found.text("pairs")
    assert "pictures/base/0001.png: not a picture of a known format" in found.text("pairs")
    assert 'class="gap" role="img" aria-label="wood_elf, forest · seed 0 · base"' in text


def test_a_picture_that_was_not_drawn_is_a_gap_too(changed: Changed) -> None:
    assert "not drawn" in page(changed(lambda found: found["pictures"].pop(0)))[1].text("pairs")


def test_if_all_pictures_are_gone_it_says_so(changed: Changed) -> None:
    def move(found: dict[str, Any]) -> None:
        for each in found["pictures"]:
            each["file"] = f"gone/{each['file']}"
        found["nearest"] = []

    with pytest.raises(ElfError, match="missing, and so are all 144 pictures that"):
        write_report(changed(move))


def test_a_disk_that_refuses_is_one_line(sample: Path) -> None:
    (sample / "report.html").mkdir()
    with pytest.raises(ElfError, match=r"the report was not written .*make room and repeat"):
        write_report(sample)


def test_the_same_folder_makes_the_same_bytes(sample: Path) -> None:
    first = write_report(sample).read_bytes()
    assert write_report(sample).read_bytes() == first
    assert str(sample).encode() not in first, "it says nothing of the machine"


def test_the_page_is_small(sample: Path) -> None:
    text, _ = page(sample)
    data = sum(map(len, re.findall(r"data:image/[^\"]+", text)))
    assert data < 1.4 * sum(path.stat().st_size for path in sample.glob("pictures/*/*.png"))
    assert len(text.encode()) - data < 1_000_000, "markup leaves room beside 14 MB of pictures"
