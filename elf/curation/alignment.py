"""Whether two pictures are one but for a crop, a border, a mark: laid over each other, compared.

One small gray picture is moved and scaled until it fits the other best (Lucas and Kanade's method
in its inverse compositional form, on pictures of mean 0 and length 1: Baker and Matthews,
Lucas-Kanade 20 Years On, 2004). Then pixels are counted that differ by more than noise and half a
pixel's shift explain, among those where there is something to see: an even background says nothing.
All is done for many pairs at once. A warp of scale and shift alone is two matrix products.
"""

import numpy as np
from jaxtyping import Bool, Float32

Grays = Float32[np.ndarray, "pairs side side"]
Warp = Float32[np.ndarray, "pairs 4"]
"""Scale across and down, shift across and down; the picture reaches from -1 to 1."""

COARSE, FINE = 6, 4
"""Steps at half the size, from where it finds home, and at the whole."""

REACH = 1.25, 0.25
"""Scales up to it or its inverse, and shifts up to it: a fifth of a side may be gone."""

NOISE, SHIFT = 6.0, 0.6
"""Gray levels, and px of a shift, that count as no difference."""

DETAIL = 4.0
"""Gray levels a px from which there is something to see."""

HOPEFUL = 0.4
"""Share of the seen pixels that may differ at half the size: others are not looked at again."""

DIFFERENT, SEEN = 0.15, 0.02
"""Share of the seen pixels that may differ, and of all pixels the least that must be seen."""


def same_picture(a: Grays, b: Grays) -> Bool[np.ndarray, " pairs"]:
    """Return which pictures show the same but for a small crop, a border or a mark.

    Args:
        a: Gray levels, 0 to 255.
        b: Those to compare with, pair by pair.
    """
    half = _halved(a), _halved(b)
    warp = _descend(*half, _still(len(a)), COARSE)
    open_ = differences(*half, warp)[0] <= HOPEFUL
    a, b = a[open_], b[open_]
    different, seen = differences(a, b, _descend(a, b, warp[open_], FINE))
    open_[open_] = (different <= DIFFERENT) & (seen >= SEEN)
    return open_


def align(a: Grays, b: Grays) -> Warp:
    """Return the warp of ``b`` that fits ``a`` best."""
    warp = _descend(_halved(a), _halved(b), _still(len(a)), COARSE)
    return _descend(a, b, warp, FINE)


def _still(count: int) -> Warp:
    return np.tile(np.array([1, 1, 0, 0], np.float32), (count, 1))


def _halved(pictures: Grays) -> Grays:
    count, side, _ = pictures.shape
    parts = pictures.reshape(count, side // 2, 2, side // 2, 2)
    small: Grays = parts.mean((2, 4))
    return small


def _descend(a: Grays, b: Grays, warp: Warp, steps: int) -> Warp:
    """Do some steps of Gauss and Newton; of all warps on the way the best is returned."""
    count, side, _ = a.shape
    everything = np.ones(a.shape, np.bool_)
    down, across = np.gradient(a, 2 / side, axis=(1, 2))
    grid = _grid(side)
    length = np.linalg.norm(a - a.mean((1, 2), keepdims=True), axis=(1, 2)) + 1e-3
    jacobian = np.stack([across * grid, down * grid[:, None], across, down], 1)
    jacobian = jacobian.reshape(count, 4, side * side) / length[:, None, None]  # (pairs, 4, pixels)
    jacobian -= jacobian.mean(2, keepdims=True)
    template = _unit(a, everything).reshape(count, 1, side * side)
    jacobian -= (jacobian * template).sum(2, keepdims=True) * template
    hessian = jacobian @ jacobian.transpose(0, 2, 1) + np.float32(1e-4) * np.eye(4, dtype="f4")
    solver = np.linalg.inv(hessian) @ jacobian
    best, most = warp, np.full(count, -np.inf, np.float32)
    for step in range(steps + 1):
        moved, inside = warped(b, warp)
        fitted, wanted = _unit(moved, inside), _unit(a, inside)
        fit = np.einsum("nij,nij->n", fitted, wanted)
        best = np.where((fit > most)[:, None], warp, best)
        most = np.maximum(fit, most)
        if step < steps:
            error = (fitted - wanted).reshape(count, side * side, 1)
            change = (solver @ error)[..., 0].clip(-0.15, 0.15)
            scale = warp[:, :2] / (1 + change[:, :2])
            shift = warp[:, 2:] - scale * change[:, 2:]
            scale = scale.clip(1 / REACH[0], REACH[0])
            warp = np.concatenate([scale, shift.clip(-REACH[1], REACH[1])], 1)
    return best


def warped(pictures: Grays, warp: Warp) -> tuple[Grays, Bool[np.ndarray, "pairs side side"]]:
    """Return pictures moved and scaled, and where that is inside of them."""
    across, in_columns = _weights(pictures.shape[1], warp[:, 0], warp[:, 2])
    down, in_rows = _weights(pictures.shape[1], warp[:, 1], warp[:, 3])
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    return down @ pictures @ across.transpose(0, 2, 1), inside


def _grid(side: int) -> Float32[np.ndarray, " side"]:
    return ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1).astype(np.float32)


def _weights(
    side: int, scale: Float32[np.ndarray, " pairs"], shift: Float32[np.ndarray, " pairs"]
) -> tuple[Grays, Bool[np.ndarray, "pairs side"]]:
    """Return the matrices that interpolate between pixels along one axis."""
    places = (scale[:, None] * _grid(side) + shift[:, None] + 1) * (side / 2) - 0.5
    inside = (places >= -0.5) & (places <= side - 0.5)
    places = places.clip(0, side - 1)[:, :, None]
    return np.maximum(0, 1 - np.abs(places - np.arange(side, dtype=np.float32))), inside


def _unit(pictures: Grays, inside: Bool[np.ndarray, "pairs side side"]) -> Grays:
    """Return pictures of mean 0 and length 1, zero outside."""
    count = inside.sum((1, 2), dtype=np.float32)
    mean = np.einsum("nij,nij->n", pictures, inside) / count
    centred = (pictures - mean[:, None, None]) * inside
    length = np.sqrt(np.einsum("nij,nij->n", centred, centred)) + np.float32(1e-3)
    unit: Grays = centred / length[:, None, None]
    return unit


def differences(
    a: Grays, b: Grays, warp: Warp
) -> tuple[Float32[np.ndarray, " pairs"], Float32[np.ndarray, " pairs"]]:
    """Return the share of the seen pixels that differ, and the share of pixels that are seen.

    Brightness and contrast are fitted first, to the pixels that fit well enough.
    """
    moved, inside = warped(b, warp)
    slopes = _slope(a), _slope(moved)
    seen = inside & (_widest(np.maximum(*slopes)) > DETAIL)
    count = np.maximum(seen.sum((1, 2), dtype=np.float32), 1)
    used = inside
    for _ in range(3):
        gain, offset = _fitted(moved, a, used)
        rest = np.abs(gain * moved + offset - a)
        mean = np.einsum("nij,nij->n", rest, seen) / count
        used = inside & (rest <= 1.5 * mean[:, None, None])
    slope = np.maximum(slopes[0], np.abs(gain) * slopes[1])
    differs = seen & (rest > NOISE * np.clip(gain, 0.5, 2) + SHIFT * slope)
    return (
        differs.sum((1, 2), dtype=np.float32) / count,
        count / inside.sum((1, 2), dtype=np.float32),
    )


def _fitted(x: Grays, y: Grays, used: Bool[np.ndarray, "pairs side side"]) -> tuple[Grays, Grays]:
    """Return gain and offset of the line through some pixels of both pictures."""
    count = np.maximum(used.sum((1, 2), dtype=np.float32), 1)
    mean_x, mean_y = (np.einsum("nij,nij->n", v, used)[:, None, None] / count[:, None, None]
                      for v in (x, y))  # fmt: skip
    dx = (x - mean_x) * used
    gain = np.einsum("nij,nij->n", dx, y - mean_y) / (np.einsum("nij,nij->n", dx, dx) + 1e-3)
    gain = gain[:, None, None].astype(np.float32)
    return gain, mean_y - gain * mean_x


def _slope(pictures: Grays) -> Grays:
    down, across = np.gradient(pictures, axis=(1, 2))
    slope: Grays = np.hypot(down, across)
    return slope


def _widest(values: Grays) -> Grays:
    """Return the largest of each 3 × 3 neighbourhood."""
    for axis in (1, 2):
        wide = values.copy()
        inner, before = [slice(None)] * 3, [slice(None)] * 3
        inner[axis], before[axis] = slice(1, None), slice(None, -1)
        np.maximum(wide[tuple(inner)], values[tuple(before)], out=wide[tuple(inner)])
        np.maximum(wide[tuple(before)], values[tuple(inner)], out=wide[tuple(before)])
        values = wide
    return values
