"""The site is built without a warning, all its links hold, and it needs nothing from elsewhere."""

import importlib.util
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from elf import __version__

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def load_conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("elf_docs_conf", DOCS / "conf.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


conf = load_conf()


class Found(HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "source", "iframe") and "src" in given:
            self.loads.append(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """The pages of the site, by their files' names."""
    from sphinx.cmd.build import main

    folder, said = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("said") / "warnings"
    options = ["-W", "--keep-going", "-q", "-d", str(said.parent / "trees"), "-w", str(said)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, of the generator's parts; its own count
        failed = main([*options, str(DOCS), str(folder)])
    assert not failed, said.read_text("utf-8")[-3000:]
    pages = {}
    for path in folder.glob("*.html"):
        pages[path.name] = Found(path.read_text("utf-8"))
        pages[path.name].loads = [
            each for each in pages[path.name].loads if not _is_in(folder, each)
        ]
    return pages


def _is_in(folder: Path, link: str) -> bool:
    parts = urlsplit(link)
    return not parts.scheme and (folder / unquote(parts.path)).is_file()


def test_each_page_is_in_the_contents_once() -> None:
    named = [name for names in conf.NAVIGATION.values() for name in names]
    assert len(named) == len(set(named))
    missing = {path.stem for path in PAGES} - set(named) - {"index"}
    assert not missing, f"add {sorted(missing)} to NAVIGATION in docs/conf.py"


def test_each_page_is_built(site: dict[str, Found]) -> None:
    assert {f"{path.stem}.html" for path in PAGES} <= site.keys()


def test_every_link_and_anchor_of_the_site_holds(site: dict[str, Found]) -> None:
    broken = []
    for name, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            target = site.get(unquote(parts.path) or name)
            if parts.scheme or link.startswith("_"):  # elsewhere; a file to load down
                continue
            if target is None or (parts.fragment and unquote(parts.fragment) not in target.ids):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: dict[str, Found]) -> None:
    assert {name: page.loads for name, page in site.items() if page.loads} == {}


def test_every_key_can_be_linked_to(site: dict[str, Found]) -> None:
    assert any(
        "DiffusionModule.adapter.rank" in each for each in site["configuration-models.html"].ids
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_hold_where_the_page_is_read_as_a_file(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if urlsplit(link).scheme or link.startswith("#"):
            continue
        assert (DOCS / link.split("#")[0]).exists(), link


def test_no_page_has_a_directive_of_the_generator() -> None:
    for path in PAGES:
        assert not re.search(r"^(```|:::)\{", path.read_text("utf-8"), re.MULTILINE), path.name


@pytest.mark.parametrize(
    ("folder", "before", "after"),
    [
        ("docs", "[a](../benchmarks/RESULTS.md#dora)", "[a](results.md#dora)"),
        ("benchmarks", "[a](../docs/text.md)", "[a](text.md)"),
        ("models/tiny", "[a](base/README.md)", "a"),
        ("docs", "[`a`](../notebooks/b.ipynb)", "[`a`](../notebooks/b.ipynb)"),
        ("docs", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("docs", "[a](#here)", "[a](#here)"),
        ("docs", "![a](quickstart.png)", "![a](quickstart.png)"),
    ],
)
def test_links_lead_to_pages_where_there_are_some(folder: str, before: str, after: str) -> None:
    assert conf.with_links(before, ROOT / folder) == after


def test_the_changelog_is_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert __version__ in text
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
