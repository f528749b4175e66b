"""Latents and text states of the frozen models, in shards of their own, and what was prepared.

Each cached array is stamped with a hash of all that it was made from: the model, and the picture
and its crop, or the caption. What bears another stamp is stale: `elf prepare` makes it again and
nothing else reads it. ``prepared.json``, written last, names every shard with its hash; so a
preparation that was interrupted is never trained on by mistake.
"""

import hashlib
import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elf.buckets import Placement
from elf.checked import VERSION, canonical, read_checked, write_checked
from elf.errors import ElfError
from elf.shards import Entry, Index, Reader, read_index, verify
from elf.sources import Settings
from elf.trigger import without_trigger

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
PREPARED = "prepared.json"
REMEDY = "run `elf prepare --config …` with this config"


def stamp(*parts: object) -> str:
    """Return a hash of what something is made from, 16 hex digits."""
    return hashlib.sha256(canonical([VERSION, *parts])).hexdigest()[:16]


def latent_stamp(vae: str, picture: str, placed: Placement) -> str:
    """Return the stamp of a latent: VAE, picture (content id), resolution and crop."""
    return stamp("latent", vae, picture, placed.bucket, placed.resized, placed.crop)


def text_key(caption: str) -> str:
    """Return the key of a caption's text state."""
    return hashlib.sha256(caption.encode()).hexdigest()[:16]


def text_stamp(text: str, caption: str) -> str:
    """Return the stamp of a text state: text encoder with tokenizer, and caption."""
    return stamp("text", text, caption)


def pack(array: Floats, what: str) -> bytes:
    """Return an array as ``.npy`` bytes in float16, which halves the disk and the reading.

    Args:
        array: Any shape.
        what: Whose it is, for the message.

    Raises:
        ElfError: If a value is not finite or beyond float16.
    """
    if not np.isfinite(array).all():
        raise ElfError(
            f"{what}: the model gave values that are not finite (NaN or infinite); some VAEs "
            "overflow in float16, so encode in float32 or bfloat16"
        )
    largest = float(np.abs(array).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise ElfError(f"{what}: a value of {largest:.3g} does not fit float16, use another model")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype="<f2"), allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes, shape: tuple[int, ...]) -> Halves:
    """Return the array of ``pack``; its shape is known, so the header is skipped."""
    count = math.prod(shape)
    return np.frombuffer(data, "<f2", count, len(data) - 2 * count).reshape(shape)


@dataclass(frozen=True)
class Cached:
    """Where one cached array lies."""

    tar: str
    start: int
    size: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, index: Index, entry: Entry, member: str) -> "Cached":
        """Return where a member of an entry lies."""
        return cls(index.tar, *entry.members[member], tuple(entry.meta["shape"]))

    def read(self, reader: Reader) -> Halves:
        """Return the array; a whole batch is converted faster than its samples are."""
        return unpack(reader(self.tar, self.start, self.size), self.shape)


@dataclass(frozen=True)
class Example:
    """One sample as training sees it; sizes are (height, width), crops (top, left), in px.

    Where no trigger was given, or the caption has none, ``text_without_trigger`` is ``text``.
    """

    id: str
    size: tuple[int, int]
    original_size: tuple[int, int]
    crop: tuple[int, int]
    latent: Cached
    text: Cached
    text_without_trigger: Cached


@dataclass(frozen=True)
class Prepared:
    """All that `elf prepare` made.

    Attributes:
        train: Samples to train on, sorted by id.
        held_out: Samples to validate on, sorted by id.
        empty: The state of the empty caption.
        index_hash: Identifies the training samples, their crops and captions, and the models;
            an exact resume needs the same.
        fingerprints: Hashes of the models that made the caches.
    """

    train: list[Example]
    held_out: list[Example]
    empty: Cached
    index_hash: str
    fingerprints: dict[str, str]


def write_prepared(
    folder: Path, settings: Settings, fingerprints: dict[str, str], tars: list[Path]
) -> None:
    """Declare a preparation finished; a file that says so already is left as it is."""
    record: dict[str, Any] = {
        "version": VERSION,
        "settings": asdict(settings),
        "fingerprints": fingerprints,
        "tars": {tar.name: read_index(tar).sha256 for tar in sorted(tars)},
    }
    try:
        same = read_checked(folder / PREPARED, REMEDY) == record
    except ElfError:
        same = False
    if not same:
        write_checked(folder / PREPARED, record)


def read_prepared(folder: Path, settings: Settings) -> Prepared:
    """Return what was prepared, after checking that it is whole and made with these settings.

    Raises:
        ElfError: If it is missing, damaged, or stale.
    """
    record = read_checked(folder / PREPARED, REMEDY)
    for name, value in asdict(settings).items():
        if record["settings"].get(name) != value:
            raise ElfError(
                f"{folder} was prepared with data.{name}={record['settings'].get(name)!r}, "
                f"this config says {value!r}: {REMEDY}"
            )
    names = sorted(record["tars"])
    caches = [folder / name for name in names if name.startswith(("latents-", "captions-"))]
    indexes = {index.tar: index for index in verify(caches)}
    # training reads no pictures: their tars may stay behind, their indexes may not
    indexes |= {name: read_index(folder / name) for name in names if name not in indexes}
    for name, sha256 in record["tars"].items():
        if indexes[name].sha256 != sha256:
            raise ElfError(f"{folder / name} is not the shard that was prepared: {REMEDY}")

    def located(prefix: str, member: str) -> dict[str, Cached]:
        return {
            entry.key: Cached.of(indexes[name], entry, member)
            for name in names
            if name.startswith(prefix)
            for entry in indexes[name].entries
        }

    latents, texts = located("latents-", "latent.npy"), located("captions-", "text.npy")

    def examples(prefix: str) -> list[Example]:
        entries = [e for n in names if n.startswith(prefix) for e in indexes[n].entries]
        return [
            _example(e, latents, texts, settings.trigger)
            for e in sorted(entries, key=lambda e: e.key)
        ]

    train = examples("train-")
    identity = [[e.meta["stamp"], e.key] for n in names if n.startswith("train-")
                for e in indexes[n].entries]  # fmt: skip
    return Prepared(
        train,
        examples("heldout-"),
        texts[text_key("")],
        stamp(record["fingerprints"], sorted(identity)),
        record["fingerprints"],
    )


def _example(
    entry: Entry, latents: dict[str, Cached], texts: dict[str, Cached], trigger: str | None
) -> Example:
    meta = entry.meta
    caption = meta["caption"]
    text = texts[text_key(caption)]
    plain = texts[text_key(without_trigger(caption, trigger))] if trigger else text
    return Example(
        entry.key,
        (meta["bucket"][1], meta["bucket"][0]),
        (meta["height"], meta["width"]),
        (meta["crop"][1], meta["crop"][0]),
        latents[entry.key],
        text,
        plain,
    )
