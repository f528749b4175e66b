"""Which pictures are there and whole, how large they are, and the bucket of each."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tqdm import tqdm

from elf.errors import ElfError, ElfWarning
from elf.images import BadImage, decode_quietly, filtered_warnings
from elf.preparation.buckets import (
    NoBucket,
    Placement,
    Size,
    lost_areas,
    make_buckets,
    place,
    place_without_upscaling,
)
from elf.preparation.encoding import Picture
from elf.preparation.masks import MaskReader
from elf.preparation.rendering import upright_size
from elf.preparation.settings import Settings
from elf.preparation.shardset import ShardFolder
from elf.preparation.sources import Dropped, Source, Unusable, load

Placing = Callable[[Size], Placement]


def make_placing(settings: Settings, factor: int) -> Placing:
    """Return the function that places a picture of a size, (width, height) in px.

    Args:
        settings: Of the buckets.
        factor: Pixels of a picture for one of its latent, along a side.

    Raises:
        ElfError: If no bucket fits the settings, or they do not suit the model.
    """
    if settings.bucket_step % factor:
        raise ElfError(
            f"data.bucket_step {settings.bucket_step} is no multiple of {factor}, the pixels of "
            "this model's latents: change it to one"
        )
    area = (settings.resolution, settings.bucket_step)
    buckets = make_buckets(*area, settings.min_side, settings.max_side)
    if not settings.no_upscale:
        return partial(place, buckets=buckets)
    for key in ("min_side", "max_side"):
        if (value := getattr(settings, key)) is not None:
            warnings.warn(
                f"data.{key} {value} does not count with data.no_upscale: set it to null",
                ElfWarning,
                stacklevel=3,
            )
    return partial(place_without_upscaling, resolution=area[0], step=area[1])


def warn_of_lost_area(settings: Settings, sizes: list[Size]) -> None:
    """Say what a longest side of one's own costs: kohya's maximum of 1024 px at SDXL's area."""
    usual = 2 * settings.resolution
    if settings.no_upscale or settings.max_side is None or settings.max_side >= usual:
        return
    limits = (settings.resolution, settings.bucket_step, settings.min_side)
    lost = lost_areas(sizes, make_buckets(*limits, settings.max_side), make_buckets(*limits))
    if lost:
        warnings.warn(
            f"data.max_side {settings.max_side} costs area: {len(lost)} of {len(sizes)} pictures "
            f"train at up to {max(lost):.0%} fewer pixels than with data.max_side {usual}",
            ElfWarning,
            stacklevel=3,
        )


def measure(
    found: Sequence[Source],
    placing: Placing,
    masks: MaskReader,
    state: ShardFolder,
    threads: ThreadPoolExecutor,
    decode: bool,
) -> tuple[list[Picture], list[Dropped]]:
    """Return the pictures that are there, with their buckets, and those that cannot be used.

    Args:
        found: What there should be.
        placing: Places a picture of a size.
        masks: Reads masks.
        state: The shards' folder.
        threads: Read the pictures.
        decode: Whether to make sure that each is whole, and not to believe its header.
    """
    # An id is a hash of the content: a picture that stands in a shard was decoded before.
    known = {
        entry.key: (entry.meta["width"], entry.meta["height"])
        for _, entry in state.entries("train", "heldout")
    }

    def size_of(data: bytes) -> Size:
        return decode_quietly(data).size if decode else upright_size(data)

    def look(source: Source) -> Picture | Dropped:
        try:
            data = load(source)
            size = known.get(source.id) or size_of(data)
            placed = placing(size)
            return Picture(source, size, placed, masks.look(source, data, size, placed))
        except (BadImage, NoBucket, Unusable) as error:
            return Dropped(source.path, str(error), source.set)

    with filtered_warnings():
        looked_at = tqdm(
            threads.map(look, found), "pictures", len(found), unit="picture", disable=None
        )
        results = list(looked_at)
    dropped = [result for result in results if isinstance(result, Dropped)]
    return [result for result in results if isinstance(result, Picture)], dropped
