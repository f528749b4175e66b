"""What a reviewer sees of a picture and what an edit makes of it: pure functions."""

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from elf.labels.decisions import Decision
from elf.labels.records import Record

VERDICTS = {True: "keep", False: "drop"}
"""The sample tags that stand for keep and drop in the App."""


@dataclass(frozen=True)
class Label:
    """A picture's label as a reviewer sees it.

    Attributes:
        keep: The verdict; none if there is none.
        tags: In the label's order, of a picture that is left out too.
        caption: One line; empty if there is none.
    """

    keep: bool | None
    tags: list[str]
    caption: str


def confidence(record: Record) -> float | None:
    """Return the mean score of a label's tags; None if none of them has one."""
    scores = record.get("attributes", {}).get("scores", {})
    return sum(scores.values()) / len(scores) if scores else None


def unusualness(records: Iterable[Record]) -> dict[str, float]:
    """Return for each id how rare its tags are here: their mean self-information, in nats."""
    labels = {record["id"]: by_models(record).tags for record in records}
    counts = Counter(tag for tags in labels.values() for tag in set(tags))
    return {
        key: sum(math.log(len(labels) / counts[tag]) for tag in tags) / len(tags) if tags else 0.0
        for key, tags in labels.items()
    }


def by_models(record: Record) -> Label:
    """Return the label that a picture had before any decision."""
    before = record.get("attributes", {}).get("before_review", record)
    return Label(None, list(before["tags"]), before.get("caption") or "")


def in_force(record: Record) -> Label:
    """Return the label that a picture has by its decisions, even if it is left out."""
    keep = record.get("attributes", {}).get("decision", {}).get("keep")
    if keep is False:
        return dataclasses.replace(by_models(record), keep=False)
    return Label(keep, list(record["tags"]), record.get("caption") or "")


def edited(label: Label, models: Label, decision: Decision) -> Label:
    """Return the label that a further decision makes; what it sets to null is the models' again."""
    values = {
        key: getattr(models, key) if value is None else value for key, value in decision.items()
    }
    return dataclasses.replace(label, **values)


def changes(shown: Label, wanted: Label) -> Decision:
    """Return the decision that leads from one label to the other; empty if none is needed."""
    old, new = dataclasses.asdict(shown), dataclasses.asdict(wanted)
    return {key: new[key] for key in old if old[key] != new[key]}


def in_words(label: Label, models: Label) -> str | None:
    """Return what was decided about a picture: ``keep`` or ``drop``, ``edited``."""
    words = [tag for keep, tag in VERDICTS.items() if keep is label.keep]
    words += ["edited"] * (dataclasses.replace(label, keep=None) != models)
    return ", ".join(words) or None


def verdict(sample_tags: Collection[str], before: bool | None) -> bool | None:
    """Return what the sample tags say; of ``keep`` and ``drop`` the one that is new.

    Args:
        sample_tags: As they are now.
        before: What they said before.
    """
    said = [keep for keep, tag in VERDICTS.items() if tag in sample_tags]
    if len(said) == 2:
        return before is False
    return said[0] if said else None


def one_line(text: Any) -> str:
    """Return a text without outer and double spaces and without line ends."""
    return " ".join(str(text or "").split())


def split_tags(text: Any) -> list[str]:
    """Return the tags of a text: a comma or a line end parts them, each counts once."""
    tags = map(one_line, str(text or "").replace("\n", ",").split(","))
    return list(dict.fromkeys(tag for tag in tags if tag))


def without(tags: Iterable[str], struck: Collection[str]) -> list[str]:
    """Return tags less those that are struck out; case and underscores do not count."""
    keys = {_key(tag) for tag in struck}
    return [tag for tag in tags if _key(tag) not in keys]


def _key(tag: str) -> str:
    return tag.replace("_", " ").lower()
