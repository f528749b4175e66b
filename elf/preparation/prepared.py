"""What `elf prepare` made, and whether it is still what this configuration wants.

``prepared.json``, written last, names every shard with its hash; so a preparation that was
interrupted is never trained on by mistake.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elf.checked import VERSION, read_checked, write_checked
from elf.errors import ElfError
from elf.preparation.caches import Cached, CachedText, cached_text, stamp
from elf.preparation.captionoptions import TextStates
from elf.preparation.captions import Captions
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings
from elf.preparation.shards import Entry, Index, read_index, verify

PREPARED = "prepared.json"
REMEDY = "run `elf prepare --config …` with this config"
CACHES = ("latents", "flipped", "masks", "captions")
"""Kinds of shards that training reads; of the others it needs the indexes alone."""

_SHARD = re.compile(r"[a-z]{1,20}-\d{1,9}-of-\d{1,9}\.tar", re.ASCII)

Located = list[tuple[Index, Entry]]


@dataclass(frozen=True)
class Example:
    """One sample as training sees it; sizes are (height, width), crops (top, left), in px.

    A sample that is never mirrored has no ``flipped`` latent, one without a mask no ``mask``.
    """

    id: str
    size: tuple[int, int]
    original_size: tuple[int, int]
    crop: tuple[int, int]
    latent: Cached
    captions: Captions
    set: int = 0
    regularisation: bool = False
    weight: float = 1.0
    flipped: Cached | None = None
    flipped_crop: tuple[int, int] = (0, 0)
    mask: Cached | None = None


@dataclass(frozen=True)
class Prepared:
    """All that `elf prepare` made.

    Attributes:
        train: Samples to train on, sorted by id.
        held_out: Samples to validate on, sorted by id.
        unrelated: Samples that show nothing of what is learnt, to validate on, sorted by id.
        texts: Where the states of all captions lie, by ``text_key``; None if they are made live.
        index_hash: Identifies the training samples, their crops, captions, masks, and what each
            set does in an epoch, and the models; an exact resume needs the same.
        fingerprints: Hashes of the models that made the caches.
    """

    train: list[Example]
    held_out: list[Example]
    unrelated: list[Example]
    texts: dict[str, CachedText] | None
    index_hash: str
    fingerprints: dict[str, str]

    @property
    def has_masks(self) -> bool:
        """Whether any sample has a mask; batches then have one for each."""
        return any(example.mask for example in (*self.train, *self.held_out, *self.unrelated))

    @property
    def text_states(self) -> TextStates:
        """Whether the states of captions are cached, or are made while training."""
        return "live" if self.texts is None else "cached"


def write_prepared(
    folder: Path, settings: Settings, fingerprints: dict[str, str], tars: list[Path]
) -> None:
    """Declare a preparation finished; a file that says so already is left as it is."""
    record: dict[str, Any] = {
        "version": VERSION,
        "settings": settings.record(),
        "fingerprints": fingerprints,
        "tars": {tar.name: read_index(tar).sha256 for tar in sorted(tars)},
    }
    try:
        same = read_checked(folder / PREPARED, REMEDY) == record
    except ElfError:
        same = False
    if not same:
        write_checked(folder / PREPARED, record)


def shard_hashes(record: dict[str, Any], where: str) -> dict[str, str]:
    """Return the hashes of the shards that a ``prepared.json`` names.

    Args:
        record: What it holds.
        where: It, for the message.

    Raises:
        ElfError: If it names another file: one elsewhere, perhaps, whoever wrote it.
    """
    shards: dict[str, str] = record.get("tars", {})
    if not isinstance(shards, dict):
        raise ElfError(f"{where} names no shards: {REMEDY}")
    for name in shards:
        if not _SHARD.fullmatch(name):
            raise ElfError(f"{where} names {name!r}, which is no shard: {REMEDY}")
    return shards


def read_prepared(folder: Path, settings: Settings | None = None) -> Prepared:
    """Return what was prepared, after checking that it is whole and made with these settings.

    Args:
        folder: The shards' folder.
        settings: Those of the configuration; without them, any will do.

    Raises:
        ElfError: If it is missing, damaged, or stale.
    """
    record = read_checked(folder / PREPARED, REMEDY)
    try:
        return _built(folder, record, settings)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ElfError(
            f"{folder / PREPARED}, or an index beside it, says what no preparation does "
            f"({type(error).__name__}: {' '.join(str(error).split())[:80]}): {REMEDY}"
        ) from None


def _built(folder: Path, record: dict[str, Any], settings: Settings | None) -> Prepared:
    made_with = Settings.of_record(record["settings"])
    if settings is None:
        settings = made_with
    elif different := made_with.difference(settings):
        key, theirs, mine = different
        raise ElfError(
            f"{folder} was prepared with data.{key}={theirs!r}, this config says {mine!r}: {REMEDY}"
        )
    indexes = _indexes(folder, shard_hashes(record, str(folder / PREPARED)))

    def entries(kind: str) -> Located:
        return [
            (index, entry)
            for name, index in indexes.items()
            if name.startswith(f"{kind}-")
            for entry in index.entries
        ]

    def located(kind: str, member: str) -> dict[str, Cached]:
        return {e.key: Cached.of(index, e, member) for index, e in entries(kind)}

    arrays = _Arrays(
        latents=located("latents", "latent.npy"),
        flipped=located("flipped", "latent.npy"),
        masks=located("masks", "mask.npy"),
    )
    texts = {entry.key: cached_text(index, entry) for index, entry in entries("captions")}
    sets = settings.all_sets()

    def examples(kind: str) -> list[Example]:
        found = sorted((entry for _, entry in entries(kind)), key=lambda entry: entry.key)
        return [arrays.example(entry, sets) for entry in found]

    held_out = examples("heldout")
    return Prepared(
        examples("train"),
        [example for example in held_out if not sets[example.set].unrelated],
        [example for example in held_out if sets[example.set].unrelated],
        texts if settings.text_states == "cached" else None,
        _index_hash(record["fingerprints"], entries("train"), entries("masks"), settings.sets),
        record["fingerprints"],
    )


def _index_hash(
    fingerprints: dict[str, str],
    train: Located,
    masks: Located,
    sets: tuple[PictureSet, ...],
) -> str:
    identity = sorted([entry.meta["stamp"], entry.key] for _, entry in train)
    trained = {key for _, key in identity}
    used = sorted([e.meta["stamp"], e.key] for _, e in masks if e.key in trained)
    options = [
        {
            **each.trained(),
            **({"caption_dropout": share} if (share := each.caption_dropout) else {}),
        }
        for each in sets
    ]
    # what came later than the first runs counts only where it is used: those runs can go on
    more = [used, options] if used or any(options) else []
    return stamp(fingerprints, identity, *more)


def _indexes(folder: Path, tars: dict[str, str]) -> dict[str, Index]:
    """Return the indexes of the shards, by name, after checking that they are those prepared."""
    names = sorted(tars)
    caches = [folder / name for name in names if name.startswith(tuple(f"{c}-" for c in CACHES))]
    found = {index.tar: index for index in verify(caches)}
    # training reads no pictures: their tars may stay behind, their indexes may not
    found |= {name: read_index(folder / name) for name in names if name not in found}
    for name, sha256 in tars.items():
        if found[name].sha256 != sha256:
            raise ElfError(f"{folder / name} is not the shard that was prepared: {REMEDY}")
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class _Arrays:
    """Where all cached arrays of pictures lie, by id."""

    latents: dict[str, Cached]
    flipped: dict[str, Cached]
    masks: dict[str, Cached]

    def example(self, entry: Entry, sets: tuple[PictureSet, ...]) -> Example:
        meta = entry.meta
        number = meta.get("set", 0)
        each = sets[number]
        (width, height), (left, top) = meta["bucket"], meta["crop"]
        return Example(
            id=entry.key,
            size=(height, width),
            original_size=(meta["height"], meta["width"]),
            crop=(top, left),
            latent=self.latents[entry.key],
            captions=each.captions(
                meta["caption"], meta.get("sentence", ""), meta.get("trigger", "")
            ),
            set=number,
            regularisation=each.regularisation,
            weight=each.weight,
            flipped=self.flipped.get(entry.key) if each.flip else None,
            flipped_crop=(top, meta["resized"][0] - width - left),
            mask=self.masks.get(entry.key),
        )
