"""How the site is built: ``sphinx-build -W docs site``, then open ``site/index.html``.

The pages are plain Markdown that reads well on GitHub too. What only a site needs, its contents
list, the configuration reference and the files from elsewhere, is put in while it is built.
"""

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

from elf import __version__  # noqa: E402

NAVIGATION = {
    "Begin": ["quickstart", "installing", "doctor"],
    "Pictures": ["data", "curation", "labelling", "notebooks"],
    "Training": ["training", "adapters", "bases", "planning", "scaling", "watching"],
    "Afterwards": ["evaluation", "export", "serving"],
    "Language models": ["text", "answers"],
    "Reference": [
        "configuration",
        "configuration-commands",
        "configuration-trainer",
        "configuration-models",
        "configuration-data",
        "configuration-callbacks",
    ],
    "How good it is": ["comparison", "results", "faults", "fuzzing", "models"],
    "Taking part": ["contributing", "changelog"],
}
"""The contents: a new page of docs/ gets its place here. What is not written yet is left out."""

ELSEWHERE = {
    "benchmarks/RESULTS.md": "results",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "models/tiny/README.md": "models",
}
"""Files outside of docs/ that are a page's text, and that page."""

project = "Elf"
author = "the authors of Elf"
copyright = "the authors of Elf, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]
highlight_language = "text"
smartquotes = False
nitpicky = True

html_theme = "furo"
html_title = "Elf"
html_static_path = ["_static"]
html_css_files = ["elf.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1b6e4a",
        "color-brand-content": "#1b6e4a",
        "color-brand-visited": "#1b6e4a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fd0a8",
        "color-brand-content": "#7fd0a8",
        "color-brand-visited": "#7fd0a8",
    },
}
copybutton_exclude = ".linenos, .gp, .go"


def pages() -> dict[str, list[str]]:
    """Return the contents, less the pages that are not written yet."""
    kept = {title: [name for name in names if (DOCS / f"{name}.md").exists()]
            for title, names in NAVIGATION.items()}  # fmt: skip
    return {title: names for title, names in kept.items() if names}


def contents() -> str:
    """Return the contents list as MyST's directives."""
    lists = [
        "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *names, "```"])
        for title, names in pages().items()
    ]
    return "\n\n".join(lists)


def with_links(text: str, folder: Path) -> str:
    """Return Markdown whose links lead to pages of the site, where there is one.

    Args:
        text: The Markdown.
        folder: Of the file that it stands in.
    """

    def link(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = (folder / path).resolve()
        if not path or ":" in path or not target.is_relative_to(ROOT):
            return match[0]
        inside = target.relative_to(ROOT).as_posix()
        if inside in ELSEWHERE:
            return f"[{text}]({ELSEWHERE[inside]}.md{anchor})"
        if target.is_relative_to(DOCS):
            return f"[{text}]({target.relative_to(DOCS).as_posix()}{anchor})"
        return text if inside.endswith(".md") else f"[{text}](../{inside})"

    return re.sub(r"\[([^\]\n]*)\]\(([^)\s#]*)(#[^)\s]*)?\)", link, text)


def included(name: str) -> str:
    """Return the text of a file from elsewhere, less its title."""
    path = ROOT / name
    _, _, text = path.read_text("utf-8").partition("\n")
    return with_links(text, path.parent)


def complete(app: Any, name: str, source: list[str]) -> None:
    """Put in what only the site has."""
    text = with_links(source[0], DOCS)
    text = re.sub(r"<!-- include: (\S+) -->", lambda match: included(match[1]), text)
    text = re.sub(r"<!-- configuration: (\w+) -->", lambda match: reference(match[1]), text)
    source[0] = f"{text}\n\n{contents()}" if name == "index" else text


def reference(name: str) -> str:
    """Return a page of the configuration reference; to import it takes seconds."""
    from reference import PAGES

    return PAGES[name]()


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx call what completes a page."""
    app.connect("source-read", complete)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
