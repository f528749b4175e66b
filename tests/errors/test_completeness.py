"""Each message that elf/ can raise is read by a test: by the catalogue, or by one of its own."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import elf

PACKAGE = Path(elf.__file__).parent
TESTS = Path(__file__).parents[1]
CATALOGUE = Path(__file__).parent / "catalogue"
LENGTH = 14
"""Characters of a message in a row that a test must hold to have read it."""
NO_MESSAGES = {"ValueError", "IndexError", "EOFError", "RuntimeError", "OSError", "SystemExit",
               "KeyboardInterrupt", "NotImplementedError", "ArgumentError", "SamplingStopped",
               "MismatchError", "UnsupportedError", "batch", "Error"}  # fmt: skip
"""What is raised for other code, which catches it, and not for a reader."""
THROUGH_THE_COMMAND = 330
"""Raises that the catalogue reaches, at the least."""
UNREAD = {
    "elf/bases/tokenizers.py: ); install it again": "needs open_clip's own file damaged",
    "elf/datamodules/textevaluation.py: data: a TextEvaluationSet is for TextEvaluation; set "
    "model.class_path": "`elf test` refuses the model first",
    "elf/embedders/cache.py: ); give a picture's path": "the pictures were just drawn",
    "elf/evaluation/reading.py: : cannot be read (": "needs a disk that refuses",
    "elf/evaluation/reading.py: or none, of pictures": "a page of a later Elf",
    "elf/export/importing_diffusers.py: adapter: the": "its end is the same as its neighbour's",
    "elf/export/language_form.py: is not what was merged": "needs a disk that writes otherwise",
    "elf/export/verifying.py: of its update; the file is not what was trained": "that of the peft "
    "form is read, in the same words",
    "elf/language/rowfiles.py: : keep one of them, it is the row": "its beginning is a variable, "
    "which is read",
    "elf/labels/manifest.py: : not a JSON object; mend it": "the reader of the same lines refuses "
    "first",
    "elf/preparation/measuring.py: , the pixels of this model's latents: change it to one": "the "
    "small models' factor is 4, of which all steps in tests are multiples",
    "elf/modules/adapter.py: . Lower the learning rate, or train in 32-true": "its beginning is a "
    "variable, which is read",
    "elf/preparation/shards.py: it has no end": "in brackets after `is cut or damaged`, which is "
    "read",
    "elf/preparation/shards.py: unreadable after byte": "likewise",
    "elf/taggers/florence.py: has no processor_config.json or preprocessor_config.json with a size "
    "(height, width); is it a Florence-2?": "a warning: labels hold tags alone then",
}
"""Messages that no test reads, by their file and what they begin with, and why."""


class Site(NamedTuple):
    """A ``raise`` with a message: where it stands, and the fixed parts of what it says."""

    path: str
    line: int
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.path}: {max(self.parts, key=len).strip()}"

    @property
    def windows(self) -> set[str]:
        """All stretches that are long enough; the longest part if there are none."""
        longest = max(map(len, self.parts))
        size = min(LENGTH, longest)
        return {p[i : i + size] for p in self.parts for i in range(len(p) - size + 1)}


def literals(node: ast.AST) -> Iterator[str]:
    """Yield the fixed parts of all texts in an expression."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


@cache
def sites() -> list[Site]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            calls = [each for each in ast.walk(node.exc) if isinstance(each, ast.Call)]
            if not calls or ast.unparse(calls[0].func).rpartition(".")[2] in NO_MESSAGES:
                continue
            parts = tuple(text for text in literals(node.exc) if len(text.strip()) > 3)
            if parts:
                name = path.relative_to(PACKAGE.parent).as_posix()
                found.append(Site(name, node.lineno, parts))
    return found


def read_by(texts: str) -> list[Site]:
    """Return the sites whose message stands in some texts.

    A stretch counts that no other message has, if the message has one.
    """
    owners = Counter(window for site in sites() for window in site.windows)
    return [
        site
        for site in sites()
        if any(
            window in texts
            for window in ({w for w in site.windows if owners[w] == 1} or site.windows)
        )
    ]


@cache
def in_tests() -> str:
    """All that stands in texts of the tests, patterns without their escapes."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(CATALOGUE.glob("*.txt"))]
    for path in sorted(TESTS.rglob("*.py")):
        if path != Path(__file__):
            texts += literals(ast.parse(path.read_text(encoding="utf-8")))
    return "\n".join(re.sub(r"\\([^\w\s])", r"\1", text) for text in texts)


def test_each_message_is_read_by_a_test() -> None:
    unread = {site.name: site.line for site in set(sites()) - set(read_by(in_tests()))}
    assert {name: line for name, line in unread.items() if name not in UNREAD} == {}
    assert sorted(UNREAD.keys() - unread.keys()) == [], "these are read now"


def test_most_messages_are_reached_through_the_command() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in CATALOGUE.glob("*.txt"))
    said = [line for line in pages.splitlines() if line.startswith("elf: error: ")]
    assert len(read_by("\n".join(said))) >= THROUGH_THE_COMMAND


def test_a_message_that_nothing_reads_is_found() -> None:
    site = Site("elf/x.py", 1, ("the moon is in the ", "; wait until it has set"))
    assert "the moon is in" in site.windows
    assert "until it has s" in site.windows
    assert Site("elf/x.py", 1, ("is none",)).windows == {"is none"}
