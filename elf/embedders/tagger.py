"""What stands before a tagger's head: pictures that show the same things lie together."""

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


class TaggerEmbedder:
    """A WD tagger, from a folder or a hub name, by whatever runs it: onnxruntime or torch.

    Raises:
        ElfError: If it is not there, damaged, or has no embedding.
    """

    kind: Kind = "tagger"

    def __init__(self, name: str, device: torch.device, batch_size: int = 16) -> None:
        config = WDConfig(model=name)
        self.name = name
        self.batch_size = batch_size
        self._source = _find(name, str(device))
        self._preprocess = self._source.preprocess()
        self._tagger = load_tagger(config, self._source, str(device))
        blank = np.zeros((1, self._preprocess.size, self._preprocess.size, 3), np.uint8)
        if self._tagger.describe(blank)[1] is None:
            raise ElfError(
                f"{WHAT}: {self._tagger.path} shows no embedding before its head; take a WD "
                f"tagger, such as {SIZE}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """What the embeddings were made with: torch's two number formats are not one model."""
        files = (WEIGHTS, CONFIG) if self._source.backend == "torch" else ONNX_FILES[:1]
        facts = (self._source.backend, self._source.dtype, asdict(self._preprocess))
        return fingerprint("tagger", [self._source.folder / file for file in files], *facts)

    def pictures(
        self, pictures: list[Image.Image], names: Sequence[str] = ()
    ) -> Float32[np.ndarray, "N D"]:
        """Return one embedding for each picture.

        Raises:
            ElfError: If an embedding is not finite.
        """
        rows: list[np.ndarray] = []
        for start in range(0, len(pictures), self.batch_size):
            chosen = pictures[start : start + self.batch_size]
            _, features = self._tagger.describe(
                np.stack([self._preprocess(picture.convert("RGB")) for picture in chosen])
            )
            assert features is not None  # the blank picture had one
            require_finite(features, f"{WHAT} {self.name}", names, start)
            rows.append(features)
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


def _find(name: str, device: str) -> WDSource:
    """Return what runs the tagger: torch, if there is no ONNX file."""
    try:
        return find_source(WDConfig(model=name), device)
    except ElfError as error:
        try:
            return find_source(WDConfig(model=name, backend="torch"), device)
        except ElfError:
            way = what_is_needed(name, f"{', '.join(ONNX_FILES)} of a WD tagger", SIZE)
            raise ElfError(f"{error}; {way}") from None
