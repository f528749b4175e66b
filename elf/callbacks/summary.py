"""What a labelling run did and how fast, in words."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elf.counted import counted
from elf.labels.records import MANIFEST, QUARANTINE
from elf.taggers.outputs import CaptionOutput

HISTOGRAM = 15
"""Tags that the summary counts at the most."""

LIMITS = {
    "decode": "decoding",
    "tagger": "the tagger",
    "captioner": "the captioner",
    "writing": "writing",
}


@dataclass
class LabelSummary:
    """What a run did, in pictures.

    Attributes:
        labelled: Given a label.
        cached: Of those, the ones whose label needed no model.
        without_caption: Of those, the ones whose caption failed.
        retry: Of these, the ones for which another run may have one.
        quarantined: Damaged or unreadable, with the reason in the quarantine file.
        skipped: Labelled by an earlier run.
        duplicates: Files with the same bytes as another, by path, and that one's path.
        total: Labels in the manifest now.
        dropped: Of those, the ones of pictures that a decision drops.
        tags: How many of the labels have each tag.
        seconds: For ``decode`` the wait for pictures, for ``tagger`` and ``captioner`` their work,
            for ``models`` the wait for them, and ``all``.
        processes: The pictures that each of several processes labelled.
    """

    labelled: int = 0
    cached: int = 0
    without_caption: int = 0
    retry: int = 0
    quarantined: int = 0
    skipped: int = 0
    duplicates: Mapping[str, str] = field(default_factory=dict)
    total: int = 0
    dropped: int = 0
    tags: Counter[str] = field(default_factory=Counter)
    seconds: Mapping[str, float] = field(default_factory=dict)
    processes: list[int] = field(default_factory=list)

    def count(self, record: Mapping[str, Any], cached: bool) -> None:
        """Count a label that was written."""
        self.labelled += 1
        self.cached += cached
        status = record["attributes"]["florence_status"]
        self.without_caption += status not in ("ok", "off")
        self.retry += status != "off" and not CaptionOutput(None, status).lasting
        self.tags.update(record["tags"])

    @classmethod
    def of(cls, shares: Iterable["LabelSummary"]) -> "LabelSummary":
        """Return the summary of several processes, each of which saw the same folder."""
        first, *others = shares
        if others:
            first.processes = [share.labelled for share in (first, *others)]
        for other in others:
            for name in ("labelled", "cached", "without_caption", "retry", "quarantined"):
                setattr(first, name, getattr(first, name) + getattr(other, name))
            first.tags.update(other.tags)
        return first

    def limit(self) -> str:
        """Return what the time went into: decoding, the tagger, the captioner, or writing."""
        waits = {name: self.seconds.get(name, 0.0) for name in ("decode", "models")}
        waits["writing"] = self.seconds.get("all", 0.0) - sum(waits.values())
        longest = max(waits, key=lambda name: waits[name])
        if longest == "models":
            longest = max(("tagger", "captioner"), key=lambda name: self.seconds.get(name, 0.0))
        return LIMITS[longest]

    def pace(self, world: int = 1) -> str:
        """Return pictures a second and what limits them, for a progress bar.

        Args:
            world: Processes that do the same.
        """
        done = (self.labelled + self.quarantined) * world
        rate = done / max(self.seconds.get("all", 0.0), 1e-9)
        return f"{rate:,.1f} pictures/s, limited by {self.limit()}"

    def lines(self, folder: str) -> list[str]:
        """Return the summary as text."""
        notes = [f"{self.cached} from the cache"] * bool(self.cached)
        notes += [f"{self.without_caption} with tags alone"] * bool(self.without_caption)
        how = f" ({', '.join(notes)})" if notes else ""
        dropped = f", {self.dropped} of them dropped by decisions" * bool(self.dropped)
        text = [
            f"{counted(self.labelled, 'picture')} labelled{how}, "
            f"{self.skipped} skipped (labelled before), "
            f"{self.quarantined} in quarantine; {folder}/{MANIFEST} holds {self.total}{dropped}"
        ]
        if self.retry:
            text.append(
                f"{self.retry} lack a caption that another run may give: mend what was warned of, "
                "then run the same command with --data.skip_existing false"
            )
        if self.processes:
            text.append(f"by process: {', '.join(map(str, self.processes))} pictures")
        if self.labelled and self.seconds:
            text.append(f"{self.pace()} ({self._shares()})")
        if self.tags:
            common = self.tags.most_common(HISTOGRAM)
            text.append("most frequent: " + ", ".join(f"{tag} {count}" for tag, count in common))
        if self.quarantined:
            text.append(f"what is wrong with those in quarantine: {folder}/{QUARANTINE}")
        copies = sorted(self.duplicates.items())
        text += [f"{path} has the same bytes as {first}: labelled once" for path, first in copies]
        return text

    def _shares(self) -> str:
        whole = max(self.seconds.get("all", 0.0), 1e-9)
        named = {
            "waiting for pictures": "decode",
            "tagger at work": "tagger",
            "captioner at work": "captioner",
        }
        return ", ".join(
            f"{name} {100 * self.seconds.get(key, 0.0) / whole:.0f} %"
            for name, key in named.items()
        )
