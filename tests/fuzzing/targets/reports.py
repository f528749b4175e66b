"""What is read again of a run and of a tagger: figures, tables, lists of tags."""

import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oracle import Check, refused
from spoiling import spoiled_json

from elf.callbacks.run_record import record
from elf.evaluation.reading import read_metrics
from elf.taggers.tags import TagList

from . import join, split

LONGEST = 1 << 13
WORDS = (b'"schema": 1', b'"kind"', b'"variants"', b'"resumed"', b'"changed"', b"name", b"category",
         b'"', b",", b"\r", b"\0", b"\xef\xbb\xbf", b"null", b"NaN", b"1e999")  # fmt: skip
FILES = ("metrics.json", "environment.json", "selected_tags.csv")


def document() -> dict[str, Any]:
    """Return what `elf test` finds, as the tests of its page have it."""
    path = Path(__file__).parents[2] / "evaluation" / "conftest.py"
    spec = importlib.util.spec_from_file_location("evaluated", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: dict[str, Any] = module.document([])
    return made


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield whole files of each kind."""
    found = document()
    found["rows"] = found["rows"][:2]
    for each in ("nearest", "loss"):
        found[each] = found[each][:1]
    yield join(0, json.dumps(found).encode())
    yield join(1, json.dumps({"a": 1, "resumed": [{"step": 1, "changed": {"a": [1, 2]}}]}).encode())
    yield join(2, b"tag_id,name,category,count\n1,elf,0,9\n2,general,9,8\n")


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Spoil a value."""
    return data[:1] + spoiled_json(data[1:], draw)


def target(folder: Path) -> Check:
    """Return the check of a file."""

    def check(data: bytes) -> None:
        kind, text = split(data, len(FILES))
        path = folder / FILES[kind]
        path.write_bytes(text)
        with refused():
            if kind == 0:
                read_metrics(folder)
            elif kind == 1:
                record(path, {"a": 3, "b": {"c": 4}}, 5)
            else:
                TagList.read(path)

    return check
