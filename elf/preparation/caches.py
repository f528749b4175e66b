"""Latents, masks and text states, in shards of their own.

Each cached array is stamped with a hash of all that it was made from: the model, and the picture
and its crop, or the caption. What bears another stamp is stale: `elf prepare` makes it again and
nothing else reads it.
"""

import hashlib
import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elf.checked import VERSION, canonical
from elf.errors import ElfError
from elf.preparation.buckets import Placement
from elf.preparation.shards import Entry, Index, Reader

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Bytes = npt.NDArray[np.uint8]

TEXT = {"text": "shape", "pooled": "pooled_shape"}
"""What is cached of a caption, and under which name an index holds its shape."""


def stamp(*parts: object) -> str:
    """Return a hash of what something is made from, 16 hex digits."""
    return hashlib.sha256(canonical([VERSION, *parts])).hexdigest()[:16]


def latent_stamp(vae: str, picture: str, placed: Placement, flipped: bool = False) -> str:
    """Return the stamp of a latent: VAE, picture (content id), resolution, crop and flip."""
    flip = ["flipped"] if flipped else []
    return stamp("latent", vae, picture, placed.bucket, placed.resized, placed.crop, *flip)


def mask_stamp(kind: str, mask: str, placed: Placement, factor: int) -> str:
    """Return the stamp of a mask: its kind, content id, and crop; and pixels to a latent."""
    return stamp(kind, mask, placed.bucket, placed.resized, placed.crop, factor)


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


def pack_mask(array: Bytes) -> bytes:
    """Return a mask, (h, w) of 0 to 255, as ``.npy`` bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, np.uint8), allow_pickle=False)
    return buffer.getvalue()


@dataclass(frozen=True)
class Cached:
    """Where one cached array lies."""

    tar: str
    start: int
    size: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, index: Index, entry: Entry, member: str, shape: str = "shape") -> "Cached":
        """Return where a member of an entry lies; its meta holds the shape under that name."""
        return cls(index.tar, *entry.members[member], tuple(entry.meta[shape]))

    def read(self, reader: Reader) -> Halves:
        """Return the array; a whole batch is converted faster than its samples are."""
        return unpack(reader(self.tar, self.start, self.size), self.shape)

    def read_mask(self, reader: Reader) -> Bytes:
        """Return the array of ``pack_mask``."""
        count = math.prod(self.shape)
        data = reader(self.tar, self.start, self.size)
        return np.frombuffer(data, np.uint8, count, len(data) - count).reshape(self.shape)


CachedText = dict[str, Cached]
"""What is cached of one caption: ``text`` (T, D), and ``pooled`` (P,) if its model has it."""


def cached_text(index: Index, entry: Entry) -> CachedText:
    """Return where the states of a caption lie."""
    return {
        kind: Cached.of(index, entry, f"{kind}.npy", shape)
        for kind, shape in TEXT.items()
        if f"{kind}.npy" in entry.members
    }
