"""In what two pictures are alike: hashes, pictures laid over each other, embeddings."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float32, Int64

from elf.curation.alignment import same_picture
from elf.curation.duplicates import Space
from elf.curation.perceptual import GRAY, as_vectors, distance, least_product, mirrored
from elf.curation.policy import Policy
from elf.curation.scan import Picture

LOOSE = 90
"""Bits up to which pictures are laid over each other, to find crops, borders and marks."""

PAIRS = 128
"""Pairs that are laid over each other at once."""


class Likeness:
    """In what pictures are alike.

    Args:
        pictures: In order, the best first.
        policy: What counts.
        embeddings: Of the pictures.

    Attributes:
        spaces: For the search.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        policy: Policy,
        embeddings: Float32[np.ndarray, "n features"] | None,
    ) -> None:
        self.policy = policy
        count = len(pictures)
        blank = bytes(32)
        hashes = b"".join(picture.facts.hash or blank for picture in pictures)
        self._hashes = np.frombuffer(hashes, np.uint8).reshape(count, 32)
        self._hashed = np.array([bool(picture.facts.hash) for picture in pictures], np.bool_)
        grays = b"".join(picture.facts.gray for picture in pictures)
        self._grays = np.frombuffer(grays, np.uint8).reshape(count, GRAY, GRAY)
        self._embedded: Space | None = None
        vectors = as_vectors(self._hashes, self._hashed)
        self.spaces = [self._space(vectors, vectors, flip=False)]
        if policy.flips:
            flipped = as_vectors(mirrored(self._hashes), self._hashed)
            self.spaces.append(self._space(vectors, flipped, flip=True))
        if embeddings is not None and policy.similarity is not None:
            self._embedded = Space(embeddings, policy.similarity)
            self.spaces.append(self._embedded)

    def _space(
        self, vectors: Float32[np.ndarray, "n 255"], queries: np.ndarray, flip: bool
    ) -> Space:
        least = least_product(self.policy.distance)
        if not self.policy.crops:
            return Space(vectors, least, queries)
        loose = least_product(max(LOOSE, self.policy.distance))
        return Space(
            vectors, least, queries, loose, lambda rows, keys: self._overlaid(rows, keys, flip)
        )

    def _overlaid(
        self, rows: Int64[np.ndarray, " pairs"], keys: Int64[np.ndarray, " pairs"], flip: bool
    ) -> Bool[np.ndarray, " pairs"]:
        """Return which pairs are the same but for a crop, a border or a mark."""

        def compare(start: int) -> Bool[np.ndarray, " pairs"]:
            part = slice(start, start + PAIRS)
            grays = self._grays[rows[part]].astype(np.float32)
            if flip:
                grays = grays[:, :, ::-1]
            return same_picture(grays, self._grays[keys[part]].astype(np.float32))

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = list(pool.map(compare, range(0, len(rows), PAIRS)))
        return np.concatenate([*found, np.zeros(0, np.bool_)])

    def in_words(self, leaders: Int64[np.ndarray, " n"]) -> list[str]:
        """Return in what pictures are like their leaders; empty for those that lead."""
        rows = np.arange(len(leaders))
        both = self._hashed & self._hashed[leaders]
        bits = np.where(both, distance(self._hashes, self._hashes[leaders]), 255)
        turned = np.where(both, distance(mirrored(self._hashes), self._hashes[leaders]), 255)
        cosines = None if self._embedded is None else self._embedded.similarity(rows, leaders)
        words = []
        for row, leader in enumerate(leaders):
            if row == leader:
                words.append("")
            elif bits[row] <= self.policy.distance:
                words.append(f"{bits[row]} of 255 bits differ")
            elif self.policy.flips and turned[row] <= self.policy.distance:
                words.append(f"mirrored, {turned[row]} of 255 bits differ")
            elif cosines is not None and cosines[row] >= self.policy.similarity:
                words.append(f"embedding {cosines[row]:.3f}")
            else:
                words.append("but for a crop, a border or a mark")
        return words
