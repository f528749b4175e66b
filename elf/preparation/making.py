"""The shards of a preparation: what is not there yet, or not right any more, is made."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tqdm import tqdm

from elf.errors import ElfError
from elf.images import BadImage, filtered_warnings
from elf.preparation import caches
from elf.preparation.encoding import (
    Encoder,
    Picture,
    StoredPictures,
    ahead,
    encode_captions,
    encode_pictures,
)
from elf.preparation.masks import MaskReader
from elf.preparation.prepared import write_prepared
from elf.preparation.rendering import render
from elf.preparation.selecting import Selection
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings
from elf.preparation.shards import Sample
from elf.preparation.shardset import Item, ShardFolder
from elf.preparation.sources import Source, load
from elf.processes import together

_AT_ONCE = 16  # pictures in memory at a time, three times


class NotWhole(Exception):
    """A picture whose header is sound turned out to be damaged."""


REFUSALS = (ElfError, NotWhole, OSError)
"""What one of several processes may meet; the others end with it."""


def make_shards(
    encoder: Encoder,
    settings: Settings,
    selection: Selection,
    masks: MaskReader,
    state: ShardFolder,
    threads: ThreadPoolExecutor,
    batch_size: int,
) -> None:
    """Write all shards that are not right yet; of several processes each writes a part of them.

    Args:
        encoder: The frozen models.
        settings: Of the shards.
        selection: What is to be in them.
        masks: Reads masks.
        state: The shards' folder.
        threads: Decode and resize pictures.
        batch_size: Pictures or captions encoded at once.

    Raises:
        ElfError: If a picture or mask has changed since it was looked at, or a latent is not
            finite.
        NotWhole: If a picture cannot be decoded; whole shards may be there already.
    """
    names, held = encoder.fingerprints(), selection.held

    def make_pictures() -> None:
        for kind in ("train", "heldout"):
            items = [
                Item(picture.source.id, _picture_stamp(picture, settings, selection.sets), picture)
                for picture in selection.pictures
                if (picture.source.id in held) == (kind == "heldout")
            ]
            state.update(kind, items, partial(_render, settings, selection.sets, threads))
        masked = [Item(p.source.id, p.mask, p) for p in selection.pictures if p.mask]
        state.update("masks", masked, partial(_shrink, masks, threads))

    def make_caches() -> None:
        stored = StoredPictures([tar for tar in state.kept if not tar.name.startswith("masks-")])
        for kind in ("latents", "flipped"):
            flip = kind == "flipped"
            items = [
                Item(p.source.id, caches.latent_stamp(names["vae"], p.source.id, p.placed, flip), p)
                for p in selection.cached(flip)
            ]
            encode = partial(encode_pictures, encoder, batch_size, stored, threads, flipped=flip)
            with filtered_warnings():
                state.update(kind, items, encode)
        captions = [
            Item(caches.text_key(text), caches.text_stamp(names["text"], text), text)
            for text in sorted(selection.texts)
        ]
        state.update("captions", captions, partial(encode_captions, encoder, batch_size))

    with filtered_warnings():
        together(make_pictures, REFUSALS)
    together(make_caches, REFUSALS)  # of the pictures that all processes stored
    if settings.text_states == "live":  # nothing here was made by the text encoder
        names = {model: name for model, name in names.items() if model != "text"}

    def finish() -> None:
        write_prepared(state.path, settings, names, state.kept)
        state.sweep()

    together(finish if state.is_first else lambda: None, REFUSALS)


def _picture_stamp(picture: Picture, settings: Settings, sets: Sequence[PictureSet]) -> str:
    source, placed = picture.source, picture.placed
    number = [source.set] if source.set else []  # those of the first set are as before sets
    words = _words(source, settings, sets)
    return caches.stamp(
        "picture", placed.bucket, placed.resized, placed.crop, source.caption,
        settings.picture_format, *number, *([words] if words else []),
    )  # fmt: skip


def _words(source: Source, settings: Settings, sets: Sequence[PictureSet]) -> dict[str, str]:
    """Return what else training must know of a caption, if another one is made of it there."""
    each = sets[source.set]
    if not (each.varied or each.caption == "either" or settings.text_states == "live"):
        return {}
    words = {"sentence": source.sentence, "trigger": "" if each.trigger else source.trigger}
    return {key: word for key, word in words.items() if word}


def _render(
    settings: Settings,
    sets: Sequence[PictureSet],
    threads: ThreadPoolExecutor,
    items: Sequence[Item[Picture]],
) -> Iterator[Sample]:
    """Yield the samples of pictures: at their bucket's size, with caption and geometry."""

    def one(item: Item[Picture]) -> Sample:
        source, placed = item.payload.source, item.payload.placed
        try:
            data = load(source)
        except BadImage as error:
            raise changed(source.path, error) from None
        try:
            suffix, stored = render(data, placed, settings.picture_format)
        except BadImage as error:
            raise NotWhole(source.path) from error
        width, height = item.payload.size
        meta: dict[str, Any] = {
            "stamp": item.stamp,
            "width": width,
            "height": height,
            "bucket": placed.bucket,
            "resized": placed.resized,
            "crop": placed.crop,
            "caption": source.caption,
            **_words(source, settings, sets),
        }
        if source.set:
            meta["set"] = source.set
        return Sample(item.key, {suffix: stored, "txt": source.caption.encode()}, meta)

    return _in_threads(threads, one, items, "shards")


def _shrink(
    masks: MaskReader, threads: ThreadPoolExecutor, items: Sequence[Item[Picture]]
) -> Iterator[Sample]:
    """Yield the masks of pictures, at the size of their latents."""

    def one(item: Item[Picture]) -> Sample:
        picture, mask = item.payload, item.payload.source.mask
        assert mask is not None
        try:
            data = load(picture.source) if mask.alpha else mask.location.read()
            if masks.stamp(mask, data, picture.placed) != item.stamp:
                raise BadImage("it is another mask now")
            array = masks.shrink(mask, data, picture.size, picture.placed)
        except BadImage as error:
            raise changed(mask.path, error) from None
        meta = {"stamp": item.stamp, "shape": array.shape}
        return Sample(item.key, {"mask.npy": caches.pack_mask(array)}, meta)

    return _in_threads(threads, one, items, "masks")


def _in_threads(
    threads: ThreadPoolExecutor,
    make: Callable[[Item[Picture]], Sample],
    items: Sequence[Item[Picture]],
    what: str,
) -> Iterator[Sample]:
    with tqdm(desc=what, total=len(items), unit="picture", disable=None) as bar:
        chunks = (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
        for _, samples in ahead(chunks, make, threads):
            for sample in samples:
                yield sample
                bar.update()


def changed(path: str, why: object) -> ElfError:
    """Return the error of a picture that is no longer what it was when it was looked at."""
    return ElfError(f"{path} changed while it was prepared ({why}): run `elf prepare` again")
