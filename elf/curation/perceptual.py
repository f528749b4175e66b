"""What a picture looks like in 2.3 kB: a hash of 255 bits and a small gray picture.

The hash holds the signs of the lowest frequencies (the discrete cosine transform of 64 × 64 gray
pixels; all of 16 × 16 but the mean), as in pHash, whose median is left out: a sign does not hang
on the other coefficients, is not changed by brightness or contrast, and mirroring a picture turns
the odd columns' signs and no other. Source: Zauner, Implementation and Benchmarking of Perceptual
Image Hash Functions (2010).
"""

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image

Hash = UInt8[np.ndarray, "32"]
Gray = UInt8[np.ndarray, "height width"]

BITS = 255
"""Of a hash; the first of its 256 is always 0."""

SIDE, KEPT = 64, 16
GRAY = 48
"""px of a small gray picture's side."""

EVEN = 2.0
"""Gray levels of standard deviation below which a picture's frequencies are noise."""

BORDER, LEAST = 12, 1 / 8
"""Gray levels within which an even border is one, and the least share of a side inside of it."""

_WAVES = np.cos(np.pi * np.outer(np.arange(KEPT), np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)
_MIRROR = np.packbits(np.arange(KEPT * KEPT) % KEPT % 2)


def content(gray: Gray) -> Gray:
    """Return a gray picture without an even border: what is shown, on whatever canvas.

    So a subject on white is compared by itself, and with a copy that is framed otherwise.
    """
    edges = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    shown = np.abs(gray.astype(np.int16) - np.int16(np.median(edges))) > BORDER
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if len(rows) < LEAST * len(gray) or len(columns) < LEAST * gray.shape[1]:
        return gray
    return gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def shrunk(gray: Gray, side: int) -> UInt8[np.ndarray, "side side"]:
    """Return a gray picture as a square, whatever its shape is."""
    # a triangle as wide as the scale asks for: an average where it shrinks, smooth where it grows
    size = (side, side)
    return np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BILINEAR))


def perceptual_hash(gray: Gray) -> Hash | None:
    """Return a gray picture's hash; none if it is as good as even, for then it has no signs."""
    values = shrunk(gray, SIDE).astype(np.float32)
    if values.std() < EVEN:
        return None
    waves = _WAVES @ values @ _WAVES.T  # (frequency down, frequency across)
    waves[0, 0] = 0
    return np.packbits(waves > 0)


def mirrored(hashes: UInt8[np.ndarray, "n 32"]) -> UInt8[np.ndarray, "n 32"]:
    """Return the hashes of the pictures as a mirror shows them."""
    return hashes ^ _MIRROR


def distance(a: UInt8[np.ndarray, "n 32"], b: UInt8[np.ndarray, "n 32"]) -> Int64[np.ndarray, " n"]:
    """Return how many bits of hashes differ, pair by pair."""
    bits: Int64[np.ndarray, " n"] = np.bitwise_count(a ^ b).sum(-1, dtype=np.int64)
    return bits


def as_vectors(
    hashes: UInt8[np.ndarray, "n 32"], valid: Bool[np.ndarray, " n"]
) -> Float32[np.ndarray, "n 255"]:
    """Return unit vectors whose product is 1 - 2 · distance / 255; zeros for what is not valid."""
    bits = np.unpackbits(hashes, axis=1)[:, 1:]
    length = np.float32(np.sqrt(BITS))
    vectors: Float32[np.ndarray, "n 255"] = np.where(bits, 1 / length, -1 / length)
    vectors *= valid[:, None]
    return vectors


def least_product(bits: int) -> float:
    """Return the product that vectors of hashes reach if no more than so many bits differ."""
    return 1 - (2 * bits + 1) / BITS
