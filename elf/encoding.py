"""What the frozen models make of pictures and captions, as samples of cache shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from elf.buckets import Placement, Size
from elf.caches import pack
from elf.images import decode
from elf.shards import Reader, Sample, read_index
from elf.shardset import Item
from elf.sources import Source

if TYPE_CHECKING:
    from torch import Tensor


class Encoder(Protocol):
    """The frozen models whose outputs are cached.

    Attributes:
        latent_factor: Pixels of a picture for one of its latent, along a side.
    """

    latent_factor: int

    def encode_pictures(self, pixels: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return posterior mean and std, each (B, C, h, w), of pixels (B, 3, H, W) in -1..1."""

    def encode_captions(self, captions: list[str]) -> "Tensor":
        """Return (B, T, D) states of B captions."""

    def fingerprints(self) -> dict[str, str]:
        """Return hashes: ``vae``, and ``text`` for text encoder with tokenizer."""


@dataclass(frozen=True)
class Picture:
    """A picture on its way into a shard: what it is, its size in px, and where it is placed."""

    source: Source
    size: Size
    placed: Placement


def encode_pictures(
    encoder: Encoder,
    batch_size: int,
    folder: Path,
    tars: Sequence[Path],
    items: Sequence[Item[Picture]],
) -> Iterator[Sample]:
    """Yield latents as (2, C, h, w): posterior mean and standard deviation.

    The pixels are those in the shards, so that shards and latents cannot disagree.

    Args:
        encoder: The frozen models.
        batch_size: Pictures at once; a batch is of one bucket.
        folder: Where the shards are.
        tars: The shards that hold the pictures.
        items: What to encode.

    Raises:
        ElfError: If a latent is not finite, with the picture's path.
    """
    import torch

    reader = Reader(folder)
    where = {entry.key: (tar.name, entry) for tar in tars for entry in read_index(tar).entries}

    def pixels(item: Item[Picture]) -> npt.NDArray[np.uint8]:
        tar, entry = where[item.key]
        (member,) = set(entry.members) - {"txt", "json"}
        return np.asarray(decode(reader(tar, *entry.members[member])))

    by_bucket: dict[Size, list[Item[Picture]]] = {}
    for item in items:
        by_bucket.setdefault(item.payload.placed.bucket, []).append(item)
    samples = {}
    with tqdm(desc="latents", total=len(items), unit="picture", disable=None) as bar:
        for members in by_bucket.values():
            for start in range(0, len(members), batch_size):
                batch = members[start : start + batch_size]
                images = torch.from_numpy(np.stack([pixels(item) for item in batch]))
                scaled = images.permute(0, 3, 1, 2).float() / 127.5 - 1  # (B, 3, H, W)
                with torch.inference_mode():
                    mean, std = encoder.encode_pictures(scaled)
                    both = torch.stack([mean, std], 1).float().cpu().numpy()  # (B, 2, C, h, w)
                for item, latent in zip(batch, both, strict=True):
                    name = f"picture {item.payload.source.path} ({item.key})"
                    meta = {"stamp": item.stamp, "shape": latent.shape}
                    data = pack(latent, name)
                    samples[item.key] = Sample(item.key, {"latent.npy": data}, meta)
                bar.update(len(batch))
    reader.close()
    yield from (samples[item.key] for item in items)


def encode_captions(
    encoder: Encoder, batch_size: int, items: Sequence[Item[str]]
) -> Iterator[Sample]:
    """Yield text states as (T, D).

    Raises:
        ElfError: If a state is not finite, with the caption.
    """
    import torch

    with tqdm(desc="captions", total=len(items), unit="caption", disable=None) as bar:
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            with torch.inference_mode():
                states = encoder.encode_captions([item.payload for item in batch])
                arrays = states.float().cpu().numpy()  # (B, T, D)
            for item, state in zip(batch, arrays, strict=True):
                meta = {"stamp": item.stamp, "shape": state.shape, "caption": item.payload}
                data = pack(state, f"caption {item.payload!r}")
                yield Sample(item.key, {"text.npy": data}, meta)
            bar.update(len(batch))
