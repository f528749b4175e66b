"""A tagger's probabilities, and what stands before its head: alike for pictures of like things."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image

from elf.embedders.interface import Kind, fingerprint, require_finite, what_is_needed
from elf.errors import ElfError
from elf.taggers.backend import WDSource, find_source, load_tagger
from elf.taggers.timm_network import CONFIG, WEIGHTS
from elf.taggers.wd import FILES as ONNX_FILES
from elf.taggers.wd import WDConfig

WHAT = "tagger embedder"
SIZE = "SmilingWolf/wd-swinv2-tagger-v3 (0.5 GB)"


class LoadedTagger:
    """A WD tagger, from a folder or a hub name, by whatever runs it: onnxruntime or torch.

    Args:
        name: The folder or hub name.
        device: Where it runs.

    Raises:
        ElfError: If it is not there, or damaged.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._source = find_tagger(name, str(device))
        self._preprocess = self._source.preprocess()
        self._tagger = load_tagger(WDConfig(model=name), self._source, str(device))
        self.path = self._tagger.path
        self.names = list(self._tagger.tags.names)

    def fingerprint(self, kind: Kind) -> str:
        """Return what its outputs are made with: torch's two number formats are not one model."""
        files = (WEIGHTS, CONFIG) if self._source.backend == "torch" else ONNX_FILES[:1]
        facts = (self._source.backend, self._source.dtype, asdict(self._preprocess))
        return fingerprint(kind, [self._source.folder / file for file in files], *facts)

    def describe(
        self, pictures: Sequence[Image.Image]
    ) -> tuple[Float32[np.ndarray, "N tags"], Float32[np.ndarray, "N D"] | None]:
        """Return the tags' probabilities, and what stands before its head, if it shows that."""
        pixels = np.stack([self._preprocess(picture.convert("RGB")) for picture in pictures])
        return self._tagger.describe(pixels)

    def blank(self) -> Image.Image:
        """Return a picture of the size that it looks at."""
        return Image.new("RGB", (self._preprocess.size, self._preprocess.size))


class TaggerEmbedder:
    """What stands before a tagger's head.

    Raises:
        ElfError: If the tagger is not there, damaged, or has no embedding.
    """

    kind: Kind = "tagger"

    def __init__(self, name: str, device: torch.device, batch_size: int = 16) -> None:
        self.name, self.batch_size = name, batch_size
        self.tagger = LoadedTagger(name, device)
        if self.tagger.describe([self.tagger.blank()])[1] is None:
            raise ElfError(
                f"{WHAT}: {self.tagger.path} shows no embedding before its head; take a WD "
                f"tagger, such as {SIZE}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """What the embeddings are made with."""
        return self.tagger.fingerprint(self.kind)

    def pictures(
        self, pictures: list[Image.Image], names: Sequence[str] = ()
    ) -> Float32[np.ndarray, "N D"]:
        """Return one embedding for each picture.

        Raises:
            ElfError: If an embedding is not finite.
        """
        rows: list[np.ndarray] = []
        for start in range(0, len(pictures), self.batch_size):
            features = self.tagger.describe(pictures[start : start + self.batch_size])[1]
            assert features is not None  # the blank picture had one
            require_finite(features, f"{WHAT} {self.name}", names, start)
            rows.append(features)
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


class TagScores:
    """A tagger's answer itself, the probability of each of its tags, kept as embeddings are."""

    kind: Kind = "tags"

    def __init__(self, tagger: LoadedTagger, batch_size: int = 16) -> None:
        self.name, self.batch_size = tagger.name, batch_size
        self.tagger = tagger

    @cached_property
    def fingerprint(self) -> str:
        """What the probabilities are made with."""
        return self.tagger.fingerprint(self.kind)

    def pictures(
        self, pictures: list[Image.Image], names: Sequence[str] = ()
    ) -> Float32[np.ndarray, "N tags"]:
        """Return the probabilities of all tags for each picture.

        Raises:
            ElfError: If one is not finite.
        """
        rows = np.empty((len(pictures), len(self.tagger.names)), np.float32)
        for start in range(0, len(pictures), self.batch_size):
            some = slice(start, start + self.batch_size)
            rows[some] = self.tagger.describe(pictures[some])[0]
            require_finite(rows[some], f"tagger {self.name}", names, start)
        return rows


def find_tagger(name: str, device: str) -> WDSource:
    """Return what runs a tagger: torch, if there is no ONNX file; nothing is loaded.

    Raises:
        ElfError: If neither's files are there.
    """
    try:
        return find_source(WDConfig(model=name), device)
    except ElfError as error:
        try:
            return find_source(WDConfig(model=name, backend="torch"), device)
        except ElfError:
            way = what_is_needed(name, f"{', '.join(ONNX_FILES)} of a WD tagger", SIZE)
            raise ElfError(f"{error}; {way}") from None
