"""Tag lists: the names and categories behind a tagger's outputs."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elf.errors import ElfError

CATEGORIES = {0: "general", 1: "artist", 3: "copyright", 4: "character", 5: "meta", 9: "rating"}
"""Danbooru's numbers, and 9, which the WD taggers use for ratings."""

_WORD = re.compile(r"[^\W_]{2}")


@dataclass(frozen=True)
class TagList:
    """The tags of a tagger in the order of its outputs."""

    names: Sequence[str]
    categories: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def read(cls, path: str | Path) -> "TagList":
        """Read a ``selected_tags.csv`` (columns ``name`` and ``category`` among others).

        Raises:
            ElfError: If a column is missing or a row is damaged, with its line.
        """
        path = Path(path)
        names, categories = [], []
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            try:
                header = next(reader, [])
                name, category = header.index("name"), header.index("category")
                for row in filter(None, reader):  # blank lines are none
                    names.append(row[name])
                    number = int(row[category])
                    categories.append(CATEGORIES.get(number, str(number)))
            except (IndexError, ValueError, csv.Error):
                raise ElfError(
                    f"{path}, line {reader.line_num}: not a row of a tag list; "
                    "the columns `name` and `category` (a number) are needed"
                ) from None
        if not names:
            raise ElfError(f"{path}: no tags in it; fetch the file again from where the model is")
        return cls(names, categories)


def is_kaomoji(name: str) -> bool:
    """Whether a tag is a face of signs (``^_^``, ``0_0``): no two letters or digits in a row."""
    return _WORD.search(name) is None


def display(name: str, keep_underscores: bool = False, escape_parentheses: bool = False) -> str:
    """Return a tag as it is written into labels: underscores become spaces, kaomoji stay."""
    if not keep_underscores and not is_kaomoji(name):
        name = name.replace("_", " ")
    if escape_parentheses:
        name = name.replace("(", r"\(").replace(")", r"\)")
    return name
