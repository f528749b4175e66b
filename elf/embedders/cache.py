"""Embeddings on the disk: each picture is embedded once, whichever metric asks for it first.

A folder stands for one fingerprint (:class:`elf.caching.tagcache.ResultCache`, which neither a kill
nor a second process can spoil). In it a row is found by the sha256 of the picture's size and
pixels, not of a file's bytes: pixels are what an embedding is made of, so that a picture is one
entry whether it comes from a folder, from a shard, or from the generator's memory, and a PNG that
was written again with other metadata is still the same. The price is that a picture is decoded
before it is found, some 10 ms; an evaluation looks at hundreds.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from elf.caching.tagcache import ResultCache
from elf.embedders.interface import PictureEmbedder
from elf.errors import ElfError
from elf.images import BadImage, decode

FORMAT = 1
"""Of a row's bytes; part of the folder's name."""

Row = Float32[np.ndarray, " features"]


def pixel_key(picture: Image.Image) -> str:
    """Return the sha256 of a picture's mode, size and pixels, in hex."""
    head = f"{picture.mode} {picture.width} {picture.height} ".encode()
    return hashlib.sha256(head + picture.tobytes()).hexdigest()


def open_pictures(paths: Iterable[str | Path]) -> Iterator[tuple[str, Image.Image]]:
    """Yield name and upright RGB pixels of picture files, one in memory at a time.

    Raises:
        ElfError: If one cannot be read or decoded.
    """
    for path in paths:
        try:
            yield str(path), decode(Path(path).read_bytes())
        except OSError as error:
            raise ElfError(
                f"{path}: could not be read ({error.strerror or error}); give a picture's path"
            ) from None
        except BadImage as error:
            raise ElfError(f"{path}: {error}; replace or remove it") from None


class EmbeddingCache:
    """The embeddings of one embedder, those on the disk and those still to be computed.

    Memory: a batch of pictures, 24 bytes a row on the disk, and about 100 a row that is new.

    Args:
        folder: Of the caches of all embedders; None keeps nothing on the disk.
        embedder: Is called for pictures that have no row yet.
        batch_size: Pictures in memory at once.
    """

    def __init__(
        self, folder: str | Path | None, embedder: PictureEmbedder, batch_size: int = 16
    ) -> None:
        self._embedder = embedder
        self._batch_size = batch_size
        self._kept: ResultCache | None = None  # what is read
        self._added: ResultCache | None = None  # what is written
        self._stale: set[bytes] = set()  # keys put since the folder was read
        if folder is not None:
            name = f"{embedder.kind}-{embedder.fingerprint[:32]}-{FORMAT}"
            self._kept = ResultCache(Path(folder) / name)

    def array(self, pictures: Iterable[tuple[str, Image.Image]]) -> Float32[np.ndarray, "N D"]:
        """Return the rows of all pictures; (0, 0) if there are none."""
        rows = list(self.rows(pictures))
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def rows(self, pictures: Iterable[tuple[str, Image.Image]]) -> Iterator[Row]:
        """Yield the row of each picture, in order; a batch of pictures is in memory at a time.

        Args:
            pictures: Name, for messages, and picture.

        Raises:
            ElfError: If an embedding is not finite.
        """
        waiting = iter(pictures)
        while batch := list(islice(waiting, self._batch_size)):
            yield from self._batch(batch)

    def _batch(self, batch: list[tuple[str, Image.Image]]) -> list[Row]:
        keys = [pixel_key(picture) for _, picture in batch]
        rows = {key: row for key in set(keys) if (row := self._get(key)) is not None}
        if any(key not in rows for key in keys):
            # All of a batch: among others a picture's row would differ by rounding, and what is
            # found after an interruption would not be what was found without one.
            names, pictures = zip(*batch, strict=True)
            computed = self._embedder.pictures(list(pictures), names)
            for key, row in zip(keys, computed, strict=True):
                if key not in rows:
                    rows[key] = row
                    self._put(key, row)
        return [rows[key] for key in keys]

    def _get(self, key: str) -> Row | None:
        if self._kept is None:
            return None
        payload = self._kept.get(key)
        if payload is None and bytes.fromhex(key) in self._stale:
            # a cache finds what was there when it was opened
            self._kept.close()
            self._kept = ResultCache(self._kept.folder)
            self._stale.clear()
            payload = self._kept.get(key)
        return None if payload is None else np.frombuffer(payload, "<f4").astype(np.float32)

    def _put(self, key: str, row: Row) -> None:
        if self._kept is None:
            return
        self._added = self._added or ResultCache(self._kept.folder)
        self._added.put(key, row.astype("<f4").tobytes())
        self._stale.add(bytes.fromhex(key))

    def close(self) -> None:
        """Release the folder; harmless when repeated."""
        for cache in (self._kept, self._added):
            if cache is not None:
                cache.close()

    def __enter__(self) -> "EmbeddingCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
