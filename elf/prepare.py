"""`elf prepare`: labelled pictures → shards in buckets, cached latents and text states.

The captions come from the labels, the sizes from the pictures, and both decide what a shard holds;
nothing else does, so that a second run with nothing changed has nothing to do.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from elf import caches, sources
from elf.buckets import Size, make_buckets, place
from elf.encoding import Encoder, Picture, encode_captions, encode_pictures
from elf.epoch import id_words, uniform
from elf.errors import ElfError
from elf.files import FolderLock
from elf.images import BadImage, decode
from elf.shards import Sample
from elf.shardset import Item, ShardFolder
from elf.sources import Dropped, Settings, Source
from elf.trigger import has_trigger, without_trigger

_FEW = 8  # with fewer pictures none is held out only to have one
_AT_ONCE = 64  # pictures in memory at a time


@dataclass(frozen=True)
class Summary:
    """What a preparation did.

    Attributes:
        pictures: How many are trained on.
        held_out: How many are kept for validation.
        buckets: How many pictures each bucket has, (width, height) in px.
        crop_loss: Mean share of a resized picture that was cropped away, 0-1.
        dropped: What was left out, and why.
        rendered: Pictures, ``latents``, and ``captions`` made in this run; the rest was there.
        latents: 〃
        captions: 〃
    """

    pictures: int
    held_out: int
    buckets: dict[Size, int]
    crop_loss: float
    dropped: list[Dropped]
    rendered: int = 0
    latents: int = 0
    captions: int = 0

    def __str__(self) -> str:
        sizes = sorted(self.buckets.items(), key=lambda item: (-item[1], item[0]))
        reasons = Counter(dropped.reason for dropped in self.dropped)
        return "\n".join(
            [
                f"pictures   {self.pictures} to train on, {self.held_out} held out",
                "buckets    " + ", ".join(f"{w}×{h}: {count}" for (w, h), count in sizes),
                f"crop loss  {self.crop_loss:.1%} of the area on average",
                f"made now   {self.rendered} pictures, {self.latents} latents, "
                f"{self.captions} caption states",
                f"dropped    {len(self.dropped)}",
                *(f"  {count} × {reason}" for reason, count in reasons.most_common()),
                *(f"  {drop.path}: {drop.reason}" for drop in self.dropped[:10]),
            ]
        )


def prepare(
    encoder: Encoder,
    settings: Settings,
    pictures: str | Path = "data/raw",
    labels: str | Path = "data/labels",
    shards: str | Path = "data/shards",
    batch_size: int = 8,
    workers: int = 4,
) -> Summary:
    """Bring a folder of shards and caches up to date with labelled pictures; print a summary.

    A run that is killed leaves whole files only, and the next one continues; the result is the
    same, byte for byte, as that of one undisturbed run with the same batches.

    Args:
        encoder: The frozen models.
        settings: Of buckets, captions and split.
        pictures: The folder that the manifest's paths are relative to.
        labels: The folder of the manifest and the label files.
        shards: The folder to write into.
        batch_size: Pictures or captions encoded at once.
        workers: Threads that decode and resize pictures.

    Raises:
        ElfError: If nothing is labelled, nothing is left to train on, no caption holds the
            trigger, the settings do not suit the model, or a latent is not finite (with the
            picture's name).
    """
    buckets = _buckets(settings, encoder.latent_factor)
    root, folder = Path(pictures), Path(shards)
    found, dropped = sources.read_sources(root, Path(labels), settings.caption)
    with FolderLock(folder), ThreadPoolExecutor(max(1, workers)) as threads:
        state = ShardFolder(folder, settings.shard_size)
        state.sweep_temporary()
        chosen = _measure(root, found, buckets, state, threads, dropped)
        held = held_out([picture.source.id for picture in chosen], settings.held_out)
        names = encoder.fingerprints()
        made = {"train": 0, "heldout": 0}
        for kind in made:
            items = [
                Item(picture.source.id, _picture_stamp(picture, settings), picture)
                for picture in chosen
                if (picture.source.id in held) == (kind == "heldout")
            ]
            made[kind] = state.update(kind, items, partial(_render, root, settings, threads))
        latents = [
            Item(p.source.id, caches.latent_stamp(names["vae"], p.source.id, p.placed), p)
            for p in chosen
        ]
        make_latents = partial(encode_pictures, encoder, batch_size, folder, list(state.kept))
        made["latents"] = state.update("latents", latents, make_latents)
        captions = [
            Item(caches.text_key(text), caches.text_stamp(names["text"], text), text)
            for text in sorted(_texts([p.source.caption for p in chosen], settings.trigger))
        ]
        make_texts = partial(encode_captions, encoder, batch_size)
        made["captions"] = state.update("captions", captions, make_texts)
        caches.write_prepared(folder, settings, names, state.kept)
        state.sweep()
    summary = Summary(
        pictures=len(chosen) - len(held),
        held_out=len(held),
        buckets=dict(Counter(picture.placed.bucket for picture in chosen)),
        crop_loss=float(np.mean([picture.placed.loss for picture in chosen])),
        dropped=dropped,
        rendered=made["train"] + made["heldout"],
        latents=made["latents"],
        captions=made["captions"],
    )
    print(summary)
    return summary


def _texts(captions: list[str], trigger: str | None) -> set[str]:
    """Return all that text states are wanted of: captions, those without trigger, the empty one."""
    if trigger is None:
        return {"", *captions}
    if not any(has_trigger(caption, trigger) for caption in captions):
        raise ElfError(
            f"data.trigger: no caption holds {trigger!r} (one is {captions[0]!r}); name the "
            "trigger that the labels were made with"
        )
    return {"", *captions, *(without_trigger(caption, trigger) for caption in captions)}


def held_out(ids: Sequence[str], fraction: float) -> set[str]:
    """Return the ids kept for validation: those whose hash falls below the fraction.

    A picture's fate does not depend on the others, but for two exceptions: where there are enough
    pictures at least one is held out (if any should be), and at least one is always trained on.
    """
    draws = uniform(id_words(ids).astype(np.int64), "held out")
    held = {name for name, draw in zip(ids, draws, strict=True) if draw < fraction}
    if not held and fraction > 0 and len(ids) >= _FEW:
        held = {ids[int(draws.argmin())]}
    return held - {ids[int(draws.argmax())]} if len(held) == len(ids) else held


def _buckets(settings: Settings, factor: int) -> list[Size]:
    if settings.bucket_step % factor:
        raise ElfError(
            f"data.bucket_step {settings.bucket_step} is no multiple of {factor}, the pixels of "
            "this model's latents: change it to one"
        )
    return make_buckets(
        settings.resolution, settings.bucket_step, settings.min_side, settings.max_side
    )


def _measure(
    root: Path,
    found: Sequence[Source],
    buckets: list[Size],
    state: ShardFolder,
    threads: ThreadPoolExecutor,
    dropped: list[Dropped],
) -> list[Picture]:
    """Return the pictures that are there and whole, with their buckets; add others to dropped."""
    # An id is a hash of the content: a picture that stands in a shard was decoded before.
    known = {
        entry.key: (entry.meta["width"], entry.meta["height"])
        for _, entry in state.entries("train", "heldout")
    }

    def size(source: Source) -> Size | Dropped:
        try:
            data = sources.load(root, source)
            return known.get(source.id) or decode(data).size
        except BadImage as error:
            return Dropped(source.path, str(error))

    chosen = []
    sizes = tqdm(threads.map(size, found), "pictures", len(found), unit="picture", disable=None)
    for source, result in zip(found, sizes, strict=True):
        if isinstance(result, Dropped):
            dropped.append(result)
        else:
            chosen.append(Picture(source, result, place(result, buckets)))
    if not chosen:
        raise ElfError(
            f"no picture is left to train on: all {len(dropped)} were dropped, the first "
            f"({dropped[0].path}) because: {dropped[0].reason}"
        )
    return chosen


def _picture_stamp(picture: Picture, settings: Settings) -> str:
    return caches.stamp(
        "picture", picture.placed.bucket, picture.placed.resized, picture.placed.crop,
        picture.source.caption, settings.picture_format,
    )  # fmt: skip


def _render(
    root: Path,
    settings: Settings,
    threads: ThreadPoolExecutor,
    items: Sequence[Item[Picture]],
) -> Iterator[Sample]:
    """Yield the samples of pictures: at their bucket's size, with caption and geometry."""

    def one(item: Item[Picture]) -> Sample:
        source, placed = item.payload.source, item.payload.placed
        data = sources.load(root, source)
        suffix, stored = sources.render(data, placed, settings.picture_format)
        width, height = item.payload.size
        meta: dict[str, Any] = {
            "stamp": item.stamp,
            "width": width,
            "height": height,
            "bucket": placed.bucket,
            "resized": placed.resized,
            "crop": placed.crop,
            "caption": source.caption,
        }
        return Sample(item.key, {suffix: stored, "txt": source.caption.encode()}, meta)

    with tqdm(desc="shards", total=len(items), unit="picture", disable=None) as bar:
        for start in range(0, len(items), _AT_ONCE):
            for sample in threads.map(one, items[start : start + _AT_ONCE]):
                yield sample
                bar.update()
