"""A folder of shards that is brought up to date: what is right stays, byte for byte.

Every shard is made from a list of items, and says so in its index by a hash, its recipe. A shard
whose recipe still holds is left alone; of one that must be written again, the items that did not
change are copied, and only the others are made.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from elf.draws import id_words
from elf.errors import ElfError
from elf.preparation.caches import stamp
from elf.preparation.shards import Entry, Index, Reader, Sample, index_path, verify, write_shard

KINDS = ("train", "heldout", "latents", "flipped", "masks", "captions")
_OURS = re.compile(rf"({'|'.join(KINDS)})-\d{{5}}-of-\d{{5}}\.(tar|index\.json)")

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Item(Generic[Payload]):
    """One sample of a shard to be: its key, a hash of what it is made from, and how to make it."""

    key: str
    stamp: str
    payload: Payload


@dataclass
class ShardFolder:
    """The shards' folder while it is being brought up to date.

    Attributes:
        path: The folder.
        shard_size: Samples a shard at most.
        processes: How many share the work, each on its own shards; all must see the same old ones.
        rank: Which of them this is.
        made: How many samples of each kind were made, by this process.
        kept: The shards that are right or were written.
        old: Indexes of the whole shards that were there, by file name.
    """

    path: Path
    shard_size: int
    processes: int = 1
    rank: int = 0
    made: Counter[str] = field(default_factory=Counter)
    kept: list[Path] = field(default_factory=list)
    old: dict[str, Index] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._loads = [0] * self.processes  # samples that each makes
        for tar in sorted(self.path.glob("*.tar")):
            if _OURS.fullmatch(tar.name):
                try:
                    (self.old[tar.name],) = verify([tar])
                except ElfError:
                    continue  # cut, changed or half-written: made again

    @property
    def is_first(self) -> bool:
        """Whether this process does what one alone may do."""
        return self.rank == 0

    def entries(self, *kinds: str) -> Iterator[tuple[str, Entry]]:
        """Yield all valid entries there were, with their tars' names."""
        for name, index in self.old.items():
            if name.startswith(tuple(f"{kind}-" for kind in kinds)):
                yield from ((name, entry) for entry in index.entries)

    def stamps(self, kind: str) -> frozenset[tuple[str, str]]:
        """Return the (key, stamp) of all valid entries of a kind."""
        return frozenset(
            (entry.key, str(entry.meta.get("stamp"))) for _, entry in self.entries(kind)
        )

    def update(
        self,
        kind: str,
        items: Sequence[Item[Payload]],
        make: Callable[[list[Item[Payload]]], Iterable[Sample]],
    ) -> None:
        """Bring the shards of one kind up to date.

        Args:
            kind: First part of the file names.
            items: All that the shards shall hold.
            make: Makes samples of the items that are new, in their order.
        """
        have = {(entry.key, entry.meta.get("stamp")): (name, entry)
                for name, entry in self.entries(kind)}  # fmt: skip
        reader = Reader(self.path)
        for name, part in self._parts(kind, items):
            self.kept.append(self.path / name)
            recipe = stamp(*([item.key, item.stamp] for item in part))
            if name in self.old and self.old[name].recipe == recipe:
                continue
            new = [item for item in part if (item.key, item.stamp) not in have]
            least = self._loads.index(min(self._loads))
            self._loads[least] += len(new) + 1
            if least != self.rank:
                continue
            fresh = iter(make(new))
            samples = (
                _copy(reader, *have[item.key, item.stamp])
                if (item.key, item.stamp) in have
                else next(fresh)
                for item in part
            )
            write_shard(self.path / name, samples, recipe)
            reader.close()
            self.made[kind] += len(new)

    def _parts(
        self, kind: str, items: Sequence[Item[Payload]]
    ) -> Iterator[tuple[str, list[Item[Payload]]]]:
        """Split items into shards by their keys, so that a new one moves no other.

        The number of shards is a power of two and part of their names: when it grows, new files
        are made from the old ones, which are removed at the end.
        """
        if not items:
            return
        count = 1
        while count * self.shard_size < len(items):
            count *= 2
        ordered = sorted(items, key=lambda item: item.key)
        low = id_words([item.key for item in ordered]) & np.uint64(0xFFFFFFFF)
        numbers = (low * np.uint64(count)) >> np.uint64(32)
        parts: list[list[Item[Payload]]] = [[] for _ in range(count)]
        for item, number in zip(ordered, numbers.tolist(), strict=True):
            parts[number].append(item)
        for number, part in enumerate(parts):
            yield f"{kind}-{number:05d}-of-{count:05d}.tar", part

    def sweep(self) -> None:
        """Remove the shards that are no longer wanted; other files are not touched."""
        wanted = {path.name for tar in self.kept for path in (tar, index_path(tar))}
        for path in self.path.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in wanted:
                path.unlink()

    def sweep_temporary(self) -> None:
        """Remove what a killed run left half-written."""
        for path in self.path.glob(".*.tmp"):
            path.unlink()


def _copy(reader: Reader, tar: str, entry: Entry) -> Sample:
    members = {
        suffix: reader(tar, start, size)
        for suffix, (start, size) in entry.members.items()
        if suffix != "json"
    }
    return Sample(entry.key, members, entry.meta)
