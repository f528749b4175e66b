"""Tags and captions of pictures, as a Lightning module for the predict loop."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from elf.errors import ElfError
from elf.taggers import (
    FlorenceCaptioner,
    FlorenceConfig,
    Preprocess,
    Rules,
    Selector,
    WDConfig,
    WDTagger,
)
from elf.taggers.florence import florence_folder, florence_preprocess
from elf.taggers.preprocess import WD_VERSION, FlorencePreprocess, WDPreprocess
from elf.taggers.wd import wd_folder, wd_preprocess

Captions = list[tuple[str | None, str]]
"""A caption, or None, and the status, for each picture."""


class TaggerModule(LightningModule):
    """A WD tagger, a Florence-2 captioner and the rules that make labels of their outputs.

    The captioner may fail, for a picture or for the run: the labels then hold tags alone, and
    the manifest says so.

    Args:
        wd: The tagger.
        florence: The captioner; none labels with tags alone.
        rules: From scores to labels.
    """

    def __init__(
        self,
        wd: WDConfig,
        florence: FlorenceConfig | None = None,
        rules: Rules | None = None,
    ) -> None:
        super().__init__()
        self.wd = wd
        self.florence = florence
        self.rules = rules or Rules()
        self.transform = Preprocess({})
        self.tagger: WDTagger | None = None
        self.captioner: FlorenceCaptioner | None = None
        self._status = "off"
        self._folders: dict[str, Path] = {}

    def setup(self, stage: str) -> None:
        """Find the models and read what their preprocessing needs; no weights are loaded yet."""
        folder = wd_folder(self.wd)
        self._folders = {"wd": folder}
        parts: dict[str, WDPreprocess | FlorencePreprocess] = {"wd": wd_preprocess(folder)}
        if self.florence is not None:
            try:
                self._folders["florence"] = florence_folder(self.florence)
                parts["florence"] = florence_preprocess(self._folders["florence"])
            except ElfError as error:
                self._go_without_captions(error)
        self.transform = Preprocess(parts)

    def on_predict_end(self) -> None:
        """Free the models."""
        self.tagger = self.captioner = None

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Return a record for each picture of a batch; the first usable one loads the models.

        Args:
            batch: ``items`` (facts about each picture) and ``pixels`` by the models' names, one
                row for each item without an error.
            batch_idx: Its number.

        Returns:
            For each item the manifest's record, or ``path``, ``id``, ``sha256`` and ``reason``
            if it cannot be used.
        """
        labels = iter(self._label(batch["pixels"]))
        records = []
        for item in batch["items"]:
            if item["error"]:
                kept = {key: item[key] for key in ("id", "path", "sha256")}
                records.append(kept | {"reason": item["error"]})
            else:
                facts = {key: value for key, value in item.items() if key != "error"}
                records.append(facts | next(labels))
        return records

    def _load(self) -> WDTagger:
        device = str(self.device)
        self.tagger = WDTagger(self._folders["wd"], device, self.wd.threads)
        self._select = Selector(self.tagger.tags, self.rules)
        if self.florence is not None and "florence" in self.transform.parts:
            try:
                folder = self._folders["florence"]
                self.captioner = FlorenceCaptioner(self.florence, folder, device)
            except (ElfError, RuntimeError) as error:  # RuntimeError: out of GPU memory
                self._go_without_captions(error)
        return self.tagger

    def _label(self, pixels: dict[str, UInt8[np.ndarray, "..."]]) -> list[dict[str, Any]]:
        if not pixels:
            return []
        tagger = self.tagger or self._load()
        scores = tagger.score(pixels["wd"])
        if self.captioner is None:
            captions: Captions = [(None, self._status)] * len(scores)
        else:
            captions = caption_each(self.captioner, pixels["florence"])
        labels = []
        for row, (caption, status) in zip(scores, captions, strict=True):
            selection = self._select(row)
            attributes: dict[str, Any] = {
                "florence_caption": caption,
                "florence_status": status,
                "rating": selection.rating,
                "wd": {
                    "model": self.wd.model,
                    "provider": tagger.provider,
                    "preprocessing": WD_VERSION,
                },
            }
            if self.captioner is not None:
                config = self.captioner.config
                attributes["florence"] = {
                    "model": config.model,
                    "task": config.task,
                    "dtype": self.captioner.dtype,
                }
            labels.append(
                {
                    "tags": selection.tags,
                    "caption": caption,
                    "rating": selection.rating,
                    "attributes": attributes,
                }
            )
        return labels

    def _go_without_captions(self, error: Exception) -> None:
        reason = " ".join(str(error).split())
        self._status = f"unavailable: {reason[:300]}"
        rank_zero_warn(f"labels will hold tags alone: {reason}")


def caption_each(
    captioner: FlorenceCaptioner, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> Captions:
    """Return captions of a batch; if it fails as a whole, of each picture by itself."""
    try:
        texts = captioner.caption(pixels)
    except Exception as error:  # whatever it is (memory, a kernel): tags alone are better
        if len(pixels) == 1:
            return [(None, f"failed: {' '.join(str(error).split())[:300]}")]
        return [pair for row in pixels for pair in caption_each(captioner, row[None])]
    return [(text, "ok") if text else (None, "failed: empty") for text in texts]
