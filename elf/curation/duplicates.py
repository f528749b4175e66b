"""Groups of pictures that are alike, each around its best one: exact, and without chains.

Pictures come in order, the best first. One that is like a better one joins the first such leader;
one that is like none leads a group of its own. So whatever is left out is like the very picture
that stays, not like a picture that is like one that is like it; no two pictures that stay are
alike; and the result depends on the order alone. (Linking whatever is alike, as single linkage
does, makes one group of a film.)

Alike is what the product of two unit vectors says. All pairs are looked at, in blocks, with
one matrix product; where vectors are long, a shorter product bounds theirs from above
(:class:`Space`). Memory goes with the number of pictures, never with that of pairs, and the more
pictures are alike, the fewer leaders there are to compare with.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64
from tqdm import tqdm

Vectors = Float32[np.ndarray, "n d"]
Rows = Int64[np.ndarray, " rows"]
Near = tuple[Rows, Rows, Float32[np.ndarray, " pairs"]]
"""Pairs of pictures, and how similar they are."""
Check = Callable[[Rows, Rows], Bool[np.ndarray, " rows"]]
"""Whether the pictures of some rows are like those of others, pair by pair."""

BLOCK, CHUNK = 1024, 4096
"""Rows that are compared at once, and leaders: their products stay in the processor's cache."""

SHORT = 128
"""Numbers of a short vector; vectors up to twice as long are taken whole."""

SLACK = 1e-4
"""More than what float32 can be off, in a product of unit vectors."""

DENSE = 0.02
"""Share of the pairs above which whole vectors are multiplied at once, not pair by pair."""

LOOKED_AT = 4
"""Of the loosely alike ones, how many of the most similar are checked for a picture."""


class Space:
    """Unit vectors in which two pictures are alike if their product reaches a threshold.

    Short vectors hold what a rotation (onto the principal axes) makes of the first numbers, and
    the length of the rest: by Cauchy and Schwarz ``x·y <= x1·y1 + |x2||y2|``, so that no pair is
    missed, and few are left for the whole product.

    Args:
        vectors: A row for each picture; zeros for one that is like none here.
        threshold: The least product of two alike ones.
        queries: What the row of a picture is compared by, if that is not its own (mirrored).
        loose: The least product of two that are alike if ``check`` says so.
        check: Asked about the most similar ones of those.
    """

    def __init__(
        self,
        vectors: Vectors,
        threshold: float,
        queries: Vectors | None = None,
        loose: float | None = None,
        check: Check | None = None,
    ) -> None:
        self.vectors = vectors
        self.queries = vectors if queries is None else queries
        self.threshold = threshold
        self.loose, self.check = loose, check
        self._short: tuple[Vectors, Vectors] | None = None
        self._buffer = np.empty(BLOCK * CHUNK, np.float32)  # new memory costs as much as a product
        if vectors.shape[1] > 2 * SHORT and loose is None:
            axes = principal_axes(vectors, SHORT)
            short = shortened(vectors, axes)
            self._short = short if queries is None else shortened(queries, axes), short

    def compare(
        self, rows: Rows, keys: Rows, earlier: bool = False
    ) -> tuple[Rows, Rows, Near | None]:
        """Return which pictures are alike, by their places in both lists, and which loosely.

        Args:
            rows: Pictures, :data:`BLOCK` at most.
            keys: Others, :data:`CHUNK` at most.
            earlier: Both are the same ones: compare each with those before it alone.
        """
        bounded = rows.size * keys.size
        if self._short is not None:
            bound = self._multiply(*self._short, rows, keys, earlier)
            i, j = _reaching(bound, self.threshold - SLACK)
            bounded = len(i)
            if bounded <= DENSE * rows.size * keys.size:
                kept = self.similarity(rows[i], keys[j]) >= self.threshold
                return i[kept], j[kept], None
        products = self._multiply(self.queries, self.vectors, rows, keys, earlier)
        near = None if self.loose is None else _nearest(products, self.loose, rows, keys)
        i, j = _reaching(products, self.threshold - SLACK)
        close = products[i, j] < self.threshold + SLACK  # where the order of the sums may matter
        kept = ~close
        kept[close] = self.similarity(rows[i[close]], keys[j[close]]) >= self.threshold
        if self._short is not None and 2 * len(i) < bounded:
            self._short = None  # the bound tells nothing here
        return i[kept], j[kept], near

    def similarity(self, rows: Rows, keys: Rows) -> Float32[np.ndarray, " rows"]:
        """Return the product of each pair."""
        found = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            found[part] = np.einsum("nd,nd->n", self.queries[rows[part]], self.vectors[keys[part]])
        return found

    def _multiply(
        self, left: Vectors, right: Vectors, rows: Rows, keys: Rows, earlier: bool
    ) -> Float32[np.ndarray, "rows keys"]:
        """Return all products, in memory that the next call uses again."""
        out = self._buffer[: len(rows) * len(keys)].reshape(len(rows), len(keys))
        np.matmul(_take(left, rows), _take(right, keys).T, out=out)
        if earlier:
            out[np.triu_indices(len(rows))] = -np.inf
        return out


def principal_axes(vectors: Vectors, count: int) -> Float32[np.ndarray, "d axes"]:
    """Return the directions along which vectors are longest, by a sample of 4,096 of them."""
    sample = vectors[:: max(1, len(vectors) // 4096)].astype(np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(axes[:, ::-1][:, :count], np.float32)


def shortened(vectors: Vectors, axes: Float32[np.ndarray, "d axes"]) -> Vectors:
    """Return vectors along some axes, and as the last number the length of what is left."""
    count = axes.shape[1]
    short = np.empty((len(vectors), count + 1), np.float32)
    for start in range(0, len(vectors), CHUNK):
        part = slice(start, start + CHUNK)
        short[part, :count] = vectors[part] @ axes
        rest = vectors[part] - short[part, :count] @ axes.T
        short[part, count] = np.linalg.norm(rest, axis=1)
    return short


def group(spaces: Sequence[Space], leads: Bool[np.ndarray, " n"]) -> Rows:
    """Return for each picture the row of its group's leader; a leader's is its own.

    Pictures are alike if they are in any of the spaces. For one that joins no group by that,
    the :data:`LOOKED_AT` leaders that are most similar are checked, and as many of its own block.

    Args:
        spaces: With a row for each picture, in order.
        leads: Pictures that lead a group in any case.
    """
    count = len(leads)
    found = np.full(count, -1, np.int64)
    leaders, known = np.empty(count, np.int64), 0
    blocks = range(0, count, BLOCK)
    for start in tqdm(blocks, "comparing", leave=False, unit_scale=BLOCK, disable=None):
        rows = np.arange(start, min(count, start + BLOCK))
        _join(spaces, rows[~leads[rows]], leaders[:known], found)
        fresh = _lead(spaces, rows[found[rows] < 0], leads, found)
        leaders[known : known + len(fresh)] = fresh
        known += len(fresh)
    return found


def _join(spaces: Sequence[Space], rows: Rows, leaders: Rows, found: Rows) -> None:
    """Let pictures join the groups that there are."""
    loose: list[list[Near]] = [[] for _ in spaces]
    for start in range(0, len(leaders), CHUNK):
        keys = leaders[start : start + CHUNK]
        first = np.full(len(rows), len(found))
        for space, nearest in zip(spaces, loose, strict=True):
            i, j, near = space.compare(rows, keys)
            np.minimum.at(first, i, keys[j])
            if near is not None:
                nearest.append(near)
        joins = first < len(found)
        found[rows[joins]] = first[joins]
        rows = rows[~joins]
    first = np.full(len(found), len(found))
    for space, nearest in zip(spaces, loose, strict=True):
        if space.check is not None and nearest:
            i, j, similar = (np.concatenate(parts) for parts in zip(*nearest, strict=True))
            alone = found[i] < 0
            i, j = _most_similar(i[alone], j[alone], similar[alone])
            good = space.check(i, j)
            np.minimum.at(first, i[good], j[good])
    joins = first < len(found)
    found[joins] = first[joins]


def _lead(spaces: Sequence[Space], rows: Rows, leads: Bool[np.ndarray, " n"], found: Rows) -> Rows:
    """Group pictures that join no group that there is; return the new leaders."""
    alike = np.zeros((len(rows), len(rows)), np.bool_)
    nearest = []
    for space in spaces:
        i, j, near = space.compare(rows, rows, earlier=True)
        alike[i, j] = True
        nearest.append(near)
    for space, near in zip(spaces, nearest, strict=True):
        if space.check is not None and near is not None:
            i, j, similar = near
            new = ~alike[np.searchsorted(rows, i), np.searchsorted(rows, j)]
            i, j = _most_similar(i[new], j[new], similar[new])
            good = space.check(i, j)
            alike[np.searchsorted(rows, i[good]), np.searchsorted(rows, j[good])] = True
    free = ~leads[rows]
    fresh = []
    for place, row in enumerate(rows):
        if found[row] >= 0:
            continue
        found[row] = row
        fresh.append(row)
        free[place] = False
        joins = alike[:, place] & free
        found[rows[joins]] = row
        free[joins] = False
    return np.array(fresh, np.int64)


def _take(vectors: Vectors, rows: Rows) -> Vectors:
    """Return some rows; without a copy where they follow on each other."""
    follow = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
    taken: Vectors = vectors[rows[0] : rows[-1] + 1] if follow else vectors[rows]
    return taken


def _reaching(products: Float32[np.ndarray, "rows keys"], least: float) -> tuple[Rows, Rows]:
    """Return where products reach a value: ``nonzero``, but few rows have any."""
    if not products.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rows = np.flatnonzero(products.max(1) >= least)
    i, j = np.nonzero(products[rows] >= least)
    return rows[i], j


def _nearest(
    products: Float32[np.ndarray, "rows keys"], least: float, rows: Rows, keys: Rows
) -> Near:
    """Return for each picture the most similar ones of those that reach a product, or more."""
    i, j = _reaching(products, least)
    if len(i) > 8 * LOOKED_AT * len(rows):
        best = np.argpartition(products, -LOOKED_AT, axis=1)[:, -LOOKED_AT:]
        i, j = np.repeat(np.arange(len(rows)), LOOKED_AT), best.reshape(-1)
        reach = products[i, j] >= least
        i, j = i[reach], j[reach]
    return rows[i], keys[j], products[i, j]


def _most_similar(
    rows: Rows, keys: Rows, similar: Float32[np.ndarray, " pairs"]
) -> tuple[Rows, Rows]:
    """Return each picture's :data:`LOOKED_AT` most similar pairs; of equals the better key."""
    order = np.lexsort(
        (keys, -similar.round(4), rows)
    )  # equal hashes are, whatever the sums' order
    rows, keys = rows[order], keys[order]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    return rows[rank < LOOKED_AT], keys[rank < LOOKED_AT]
