"""What the frozen models make of pictures and captions, as samples of cache shards."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from elf.errors import ElfError
from elf.images import BadImage
from elf.jpeg import Pixels, decode_pixels
from elf.preparation.buckets import Placement, Size
from elf.preparation.caches import TEXT, pack
from elf.preparation.shards import Sample, read_index
from elf.preparation.shardset import Item
from elf.preparation.sources import Location, Source

if TYPE_CHECKING:
    from torch import Tensor

Thing = TypeVar("Thing")
Made = TypeVar("Made")


class Encoder(Protocol):
    """The frozen models whose outputs are cached.

    Attributes:
        latent_factor: Pixels of a picture for one of its latent, along a side.
    """

    latent_factor: int

    def encode_pictures(self, pixels: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return posterior mean and std, each (B, C, h, w), of pixels (B, 3, H, W) in -1..1."""

    def encode_captions(self, captions: list[str]) -> "dict[str, Tensor]":
        """Return what is made of B captions.

        ``text``: (B, T, D) states; and, of models that are conditioned on it (SDXL), ``pooled``:
        (B, P), one vector for all of a caption. An encoder may also have ``count_cut(captions)``:
        how many of them are longer than it reads, and ``caption_tokens``: how many tokens it reads.
        """

    def fingerprints(self) -> dict[str, str]:
        """Return hashes: ``vae``, and ``text`` for text encoder with tokenizer."""


@dataclass(frozen=True)
class Picture:
    """A picture on its way into a shard.

    Attributes:
        source: What it is.
        size: Its width and height in px.
        placed: How it is brought to its bucket.
        mask: The stamp of its mask, if it has one.
    """

    source: Source
    size: Size
    placed: Placement
    mask: str | None = None


class StoredPictures:
    """The pictures of shards, by id, so that shards and latents cannot disagree.

    Args:
        tars: The shards that hold the pictures.
    """

    def __init__(self, tars: Sequence[Path]) -> None:
        # read in threads, and there may be more shards than a process may hold open
        self._where = {
            entry.key: Location(tar, *where)
            for tar in tars
            for entry in read_index(tar).entries
            for suffix, where in entry.members.items()
            if suffix not in ("txt", "json")
        }

    def __call__(self, key: str) -> Pixels:
        """Return the pixels (H, W, 3) of a picture.

        Raises:
            ElfError: If its shard has changed since it was written.
        """
        try:
            return decode_pixels(self._where[key].read())[0]
        except BadImage as error:
            tar = self._where[key].file
            raise ElfError(f"{tar} has changed ({error}): run `elf prepare` again") from None


def encode_pictures(
    encoder: Encoder,
    batch_size: int,
    pictures: StoredPictures,
    threads: ThreadPoolExecutor,
    items: Sequence[Item[Picture]],
    flipped: bool = False,
) -> Iterator[Sample]:
    """Yield latents as (2, C, h, w): posterior mean and standard deviation.

    Args:
        encoder: The frozen models.
        batch_size: Pictures at once; a batch is of one bucket.
        pictures: Of the shards.
        threads: Decode the next batches while one is encoded.
        items: What to encode.
        flipped: Whether to mirror the pixels. (A mirrored latent is no latent of the mirrored
            picture: a VAE does not treat left and right alike.)

    Raises:
        ElfError: If a latent is not finite, with the picture's path.
    """
    import torch

    by_bucket: dict[Size, list[Item[Picture]]] = {}
    for item in items:
        by_bucket.setdefault(item.payload.placed.bucket, []).append(item)
    batches = [
        members[start : start + batch_size]
        for members in by_bucket.values()
        for start in range(0, len(members), batch_size)
    ]
    samples = {}
    name = "flipped" if flipped else "latents"
    with tqdm(desc=name, total=len(items), unit="picture", disable=None) as bar:
        for batch, decoded in ahead(batches, lambda item: pictures(item.key), threads):
            pixels = np.stack(decoded)  # (B, H, W, 3)
            images = torch.from_numpy(pixels[:, :, ::-1].copy() if flipped else pixels)
            # in place: memory that is asked for anew costs more than the arithmetic
            scaled = images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)  # (B, 3, H, W)
            with torch.inference_mode():
                mean, std = encoder.encode_pictures(scaled)
                both = torch.stack([mean, std], 1).float().cpu().numpy()  # (B, 2, C, h, w)
            for item, latent in zip(batch, both, strict=True):
                data = pack(latent, f"picture {item.payload.source.path} ({item.key})")
                meta = {"stamp": item.stamp, "shape": latent.shape}
                samples[item.key] = Sample(item.key, {"latent.npy": data}, meta)
            bar.update(len(batch))
    yield from (samples[item.key] for item in items)


def ahead(
    batches: Iterable[Sequence[Thing]], make: Callable[[Thing], Made], threads: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[Thing], list[Made]]]:
    """Yield batches with what is made of their members; the next two are being made meanwhile."""
    waiting: deque[tuple[Sequence[Thing], Iterator[Made]]] = deque()
    for batch in batches:
        waiting.append((batch, threads.map(make, batch)))
        if len(waiting) > 2:
            first, made = waiting.popleft()
            yield first, list(made)
    yield from ((batch, list(made)) for batch, made in waiting)


def encode_captions(
    encoder: Encoder, batch_size: int, items: Sequence[Item[str]]
) -> Iterator[Sample]:
    """Yield text states as (T, D), with the pooled state (P,) if there is one.

    Raises:
        ElfError: If a state is not finite, with the caption.
    """
    import torch

    with tqdm(desc="captions", total=len(items), unit="caption", disable=None) as bar:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            with torch.inference_mode():
                made = encoder.encode_captions([item.payload for item in batch])
                arrays = {kind: made[kind].float().cpu().numpy() for kind in TEXT if kind in made}
            for row, item in enumerate(batch):
                states = {kind: array[row] for kind, array in arrays.items()}
                meta = {"stamp": item.stamp, "caption": item.payload}
                meta |= {TEXT[kind]: state.shape for kind, state in states.items()}
                what = f"caption {item.payload!r}"
                members = {f"{kind}.npy": pack(state, what) for kind, state in states.items()}
                yield Sample(item.key, members, meta)
            bar.update(len(batch))
