"""The pictures of a training: from its shards if they are prepared, else by their headers."""

import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from elf.errors import ElfError
from elf.images import BadImage, filtered_warnings
from elf.preparation.buckets import NoBucket, Size
from elf.preparation.encoding import Picture
from elf.preparation.measuring import Placing
from elf.preparation.prepare import find_sources
from elf.preparation.prepared import Example, Prepared
from elf.preparation.rendering import header_size
from elf.preparation.selecting import learnt, samples_of, select
from elf.preparation.sets import PictureSet, times_an_epoch
from elf.preparation.settings import Settings
from elf.preparation.sources import Dropped, Source
from elf.training.epoch import batches


@dataclass(frozen=True)
class Pictures:
    """What a training is made of.

    Attributes:
        trained: How many pictures are trained on.
        held_out: How many are kept for validation.
        buckets: How many pictures each bucket has to train on, (width, height) in px.
        samples: How many times these stand in an epoch.
        crop_loss: Mean share of a resized picture that is cropped away, 0-1.
        cached: The buckets of all latents that are cached, (width, height) in px.
        texts: Captions whose states are cached; None if it is not counted.
        masks: Whether there are any.
        dropped: What is left out, and why.
    """

    trained: int
    held_out: int
    buckets: dict[Size, int]
    samples: dict[Size, int]
    crop_loss: float
    cached: Counter[Size]
    texts: int | None
    masks: bool
    dropped: Sequence[Dropped] = ()

    @property
    def largest(self) -> Size:
        """The bucket with most pixels."""
        return max(self.samples, key=lambda size: (size[0] * size[1], size))

    def batches(self, size: int, drop: bool) -> int:
        """Return how many batches of so many pictures an epoch has."""
        return batches(list(self.samples.values()), size, drop)


def of_prepared(prepared: Prepared, settings: Settings, placing: Placing) -> Pictures:
    """Return the pictures of shards.

    Args:
        prepared: What was prepared.
        settings: With which it was.
        placing: Places a picture of a size, (width, height) in px.
    """
    kept = [*prepared.held_out, *prepared.unrelated]

    def loss(example: Example) -> float:
        return placing((example.original_size[1], example.original_size[0])).loss

    everything = [*prepared.train, *kept]
    cached = Counter(_bucket(example) for example in everything)
    cached.update(_bucket(example) for example in everything if example.flipped is not None)
    return _counted(
        settings.all_sets(),
        [(_bucket(example), example.set) for example in prepared.train],
        len(kept),
        [loss(example) for example in everything],
        cached,
        len(prepared.texts) if prepared.texts is not None else 0,
        prepared.has_masks,
    )


def _bucket(example: Example) -> Size:
    return example.size[1], example.size[0]


def of_sources(settings: Settings, sets: Sequence[PictureSet], placing: Placing) -> Pictures:
    """Return the pictures that `elf prepare` would find; of each the header alone is read.

    Args:
        settings: Of buckets, captions and the split.
        sets: Where the pictures are.
        placing: Places a picture of a size, (width, height) in px.

    Raises:
        ElfError: If there are none that can be trained on.
    """

    def look(source: Source) -> Picture | Dropped:
        location = source.location
        try:
            if location.size < 0:
                size = header_size(location.file)
            else:
                size = header_size(io.BytesIO(location.read()))
            return Picture(source, size, placing(size))
        except (BadImage, NoBucket) as error:
            return Dropped(source.path, str(error), source.set)

    with ThreadPoolExecutor() as threads, filtered_warnings():
        found, left_out = find_sources(sets, threads)
        looked_at = list(threads.map(look, found))
    chosen = [each for each in looked_at if isinstance(each, Picture)]
    dropped = [*left_out, *(each for each in looked_at if isinstance(each, Dropped))]
    if not learnt(sets, chosen):
        why = f", and {len(dropped)} were left out ({dropped[0].reason})" if dropped else ""
        raise ElfError(f"no picture is left to train on{why}")
    selection = select(settings, sets, chosen)
    latents = [*selection.cached(flipped=False), *selection.cached(flipped=True)]
    return _counted(
        sets,
        [(each.placed.bucket, each.source.set) for each in selection.trained()],
        len(selection.held),
        [each.placed.loss for each in chosen],
        Counter(each.placed.bucket for each in latents),
        len(selection.texts),
        any(each.source.mask is not None for each in chosen),
        dropped,
    )


def _counted(
    sets: Sequence[PictureSet],
    trained: Sequence[tuple[Size, int]],
    held: int,
    losses: Sequence[float],
    cached: Counter[Size],
    texts: int | None,
    masks: bool,
    dropped: Sequence[Dropped] = (),
) -> Pictures:
    times = times_an_epoch(sets, np.array([number for _, number in trained], np.int64))
    return Pictures(
        trained=len(trained),
        held_out=held,
        buckets=dict(Counter(bucket for bucket, _ in trained)),
        samples=samples_of((bucket for bucket, _ in trained), times),
        crop_loss=float(np.mean(losses)),
        cached=cached,
        texts=texts,
        masks=masks,
        dropped=dropped,
    )
