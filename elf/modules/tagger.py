"""Tags and captions of pictures, as a Lightning module for the predict loop."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from elf.caching.fileindex import FileIndex
from elf.errors import ElfError
from elf.reader import Batch, Item
from elf.taggers import (
    FlorenceCaptioner,
    FlorenceConfig,
    Preprocess,
    Rules,
    Selector,
    Tagger,
    TagList,
    WDConfig,
)
from elf.taggers.backend import WDSource, find_source, load_tagger, possible_sources
from elf.taggers.florence import (
    caption_each,
    florence_folder,
    florence_preprocess,
    refuse_speechless,
)
from elf.taggers.outputs import CaptionOutput, ScoreOutput, to_units
from elf.taggers.preprocess import Decode, FlorencePreprocess, WDPreprocess
from elf.taggers.scores import Scores
from elf.taggers.store import OutputStore, florence_key, wd_key
from elf.taggers.wd import FILES


@dataclass
class _Seen:
    """What the models gave for a batch."""

    scores: Float32[np.ndarray, "rows tags"] | None = None
    embeddings: Float32[np.ndarray, "rows features"] | None = None
    provider: str = ""
    captions: list[CaptionOutput] | None = None


class TaggerModule(LightningModule):
    """A WD tagger, a Florence-2 captioner and the rules that make labels of their outputs.

    The captioner may fail, for a picture or for the run: the labels then hold tags alone, and
    the manifest says so. What the models gave is kept in the datamodule's cache folder, and a
    model that has nothing to look at is not loaded.

    Args:
        wd: The tagger.
        florence: The captioner; none labels with tags alone.
        rules: From scores to labels.
        decode: ``exact`` gives the models the very pixels of their authors' recipe; ``fast`` nearly
            the same ones: large JPEGs are decoded at a fraction, and another kernel resizes.

    Attributes:
        transform: The preprocessing for both models.
        seconds: What the tagger and the captioner took so far, and what was waited for them
            (``models``), which is less where they worked ahead.
    """

    def __init__(
        self,
        wd: WDConfig,
        florence: FlorenceConfig | None = None,
        rules: Rules | None = None,
        decode: Decode = "fast",
    ) -> None:
        super().__init__()
        self.wd = wd
        self.florence = florence
        self.rules = rules or Rules()
        self.decode: Decode = decode
        self.transform = Preprocess({}, decode)
        self.tagger: Tagger | None = None
        self.captioner: FlorenceCaptioner | None = None
        self.seconds = {"tagger": 0.0, "captioner": 0.0, "models": 0.0}
        # A thread each: the models look at the next pictures while labels are made of the last.
        self._looking: ThreadPoolExecutor | None = None
        self._labelling: ThreadPoolExecutor | None = None
        self.store = OutputStore(None, {})
        self._without_captioner = CaptionOutput(None, "off")
        self._folders: dict[str, Path] = {}
        self._keys: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        """Find the models and what the cache holds of them; no weights are loaded yet.

        Raises:
            ElfError: If the tagger is missing, or if the rules make no sense for its list.
        """
        self._prepare(find_source(self.wd, self._trainers_device))
        data = getattr(self.trainer, "datamodule", None) if self._trainer is not None else None
        self.store = self._open_store(getattr(data, "cache", None), self._trainers_device)

    @property
    def _trainers_device(self) -> str:
        """Where the trainer runs the module; at setup it has not moved it there yet."""
        attached = self._trainer is not None
        return str(self.trainer.strategy.root_device if attached else self.device)

    def _prepare(self, source: WDSource) -> None:
        self._source = source
        parts: dict[str, WDPreprocess | FlorencePreprocess] = {"wd": source.preprocess()}
        if self.florence is not None:
            try:
                self._folders["florence"] = florence_folder(self.florence)
                parts["florence"] = florence_preprocess(self._folders["florence"])
            except ElfError as error:
                self._go_without_captions(error)
        self.transform = Preprocess(parts, self.decode)
        self.select = Selector(TagList.read(source.folder / FILES[1]), self.rules)
        for warning in self.select.unmatched():
            rank_zero_warn(warning)

    def recall(
        self, cache: str | None, sha256: str
    ) -> tuple[Selector, ScoreOutput | None, CaptionOutput | None]:
        """Return the rules, and what the models gave for a picture: from a cache, none is loaded.

        Args:
            cache: Its folder.
            sha256: Of the picture's bytes.
        """
        sources = possible_sources(self.wd)
        self._prepare(sources[0])
        scores = caption = None
        for self._source in sources:
            for device in ("cuda", "cpu"):  # where the captioner ran, and in which number format
                store = self._open_store(cache, device)
                scores, caption = scores or store.scores(sha256), caption or store.caption(sha256)
                store.close()
            if scores is not None:
                break
        return self.select, scores, caption

    def _open_store(self, cache: str | None, device: str) -> OutputStore:
        if cache is None:
            return OutputStore(None, {})
        files = FileIndex(cache, within=[self._source.folder, *self._folders.values()])
        version = self.transform.version
        self._keys = {"wd": wd_key(self._source, files, version)}
        if self.florence is not None and "florence" in self.transform.parts:
            self._keys["florence"] = florence_key(
                self._folders["florence"], files, self.florence, device, version
            )
        files.close()
        return OutputStore(cache, self._keys)

    def missing(self, sha256: str) -> tuple[str, ...]:
        """Return the models that have to see a picture (all, if its content is not known)."""
        return self.store.missing(sha256, tuple(self.transform.parts))

    def begin(self, batch: Batch) -> None:
        """Let the models look at a batch in threads of their own, while others are written."""
        if not batch["pixels"]:
            return
        if self._looking is None or self._labelling is None:
            self._looking = ThreadPoolExecutor(1, thread_name_prefix="models")
            self._labelling = ThreadPoolExecutor(1, thread_name_prefix="labels")
        seen = self._looking.submit(self._look, batch)
        batch["seen"] = seen
        batch["outputs"] = self._labelling.submit(lambda: self._records(batch, seen.result()))

    def on_predict_end(self) -> None:
        """Free the models."""
        for thread in (self._looking, self._labelling):
            if thread is not None:
                thread.shutdown()
        self._looking = self._labelling = None
        self.tagger = self.captioner = None
        self.store.close()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return a record for each picture of a batch; a model's first picture loads it.

        Args:
            batch: ``items`` (facts about each picture) and ``pixels`` by the models' names, one
                row for each item that wants them.
            batch_idx: Its number.

        Returns:
            For each item the manifest's record, or ``path``, ``id``, ``sha256`` and ``reason``
            if it cannot be used.
        """
        start = time.perf_counter()
        started = batch.get("seen")
        seen = self._look(batch) if started is None else started.result()
        self.seconds["models"] += time.perf_counter() - start
        records: list[dict[str, Any]]
        records = self._records(batch, seen) if started is None else batch["outputs"].result()
        return records

    def _records(self, batch: Batch, seen: _Seen) -> list[dict[str, Any]]:
        """Keep what the models gave for a batch; return what `predict_step` returns."""
        scored, captioned = self._keep(batch, seen)
        records = []
        for number, item in enumerate(batch["items"]):
            if item["error"]:
                kept = {"id": item["id"], "path": item["path"], "sha256": item["sha256"]}
                records.append(kept | {"reason": item["error"]})
                continue
            scores = scored.get(number) or self.store.scores(item["sha256"])
            caption = captioned.get(number) or self.store.caption(item["sha256"])
            if scores is None:
                raise ElfError(
                    f"{item['path']}: its scores vanished from the cache while they were read; "
                    "run the same command again"
                )
            records.append(self._record(item, scores, caption or self._without_captioner))
        return records

    def _look(self, batch: Batch) -> _Seen:
        """Return what the models give for a batch, a row for each item that wants them."""
        seen = _Seen()
        if "wd" in batch["pixels"]:
            if self.tagger is None:
                self.tagger = load_tagger(self.wd, self._source, str(self.device))
            start = time.perf_counter()
            seen.scores, seen.embeddings = self.tagger.describe(batch["pixels"]["wd"])
            self.seconds["tagger"] += time.perf_counter() - start
            seen.provider = self.tagger.provider
        captioner = self._captioner() if "florence" in batch["pixels"] else None
        if captioner is not None:
            start = time.perf_counter()
            seen.captions = caption_each(captioner, batch["pixels"]["florence"])
            self.seconds["captioner"] += time.perf_counter() - start
        return seen

    def _keep(
        self, batch: Batch, seen: _Seen
    ) -> tuple[dict[int, ScoreOutput], dict[int, CaptionOutput]]:
        """Put what the models gave into the cache; return it by the items' places in the batch."""
        scored, captioned = {}, {}
        if seen.scores is not None:
            scores, embeddings = Scores.of_each(to_units(seen.scores)), None
            if seen.embeddings is not None:
                embeddings = seen.embeddings.astype(np.float16)
            for row, (number, item) in enumerate(_wanting(batch, "wd")):
                features = None if embeddings is None else embeddings[row]
                size = (item["width"], item["height"])
                output = ScoreOutput(scores[row], *size, seen.provider, features)
                scored[number] = output
                self.store.keep(item["sha256"], output)
        if seen.captions is not None:
            for (number, item), caption in zip(
                _wanting(batch, "florence"), seen.captions, strict=True
            ):
                captioned[number] = caption
                self.store.keep(item["sha256"], caption)
        return scored, captioned

    def _captioner(self) -> FlorenceCaptioner | None:
        if self.captioner is None and self.florence is not None and not self._gave_up:
            try:
                folder = self._folders["florence"]
                captioner = FlorenceCaptioner(self.florence, folder, str(self.device))
                size = florence_preprocess(folder)
                refuse_speechless(captioner, size.height, size.width)
                self.captioner = captioner
            except (ElfError, RuntimeError) as error:  # RuntimeError: out of GPU memory
                self._go_without_captions(error)
        return self.captioner

    def _record(self, item: Item, scores: ScoreOutput, caption: CaptionOutput) -> dict[str, Any]:
        selection = self.select(scores.units, caption.text)
        version = self.transform.version
        wd = {"model": self.wd.model, "provider": scores.provider, "preprocessing": version}
        attributes: dict[str, Any] = {
            "florence_caption": caption.text,
            "florence_status": caption.status,
            "rating": selection.rating,
            "wd": wd | self._fingerprint("wd"),
        }
        if self.florence is not None and caption.dtype:
            attributes["florence"] = {
                "model": self.florence.model,
                "task": self.florence.task,
                "dtype": caption.dtype,
                "preprocessing": version,
            } | self._fingerprint("florence")
        attributes |= {
            "rules": self.select.version,
            "text": self.rules.text,
            "trigger": self.rules.trigger,
            "scores": selection.scores,
            "dropped": selection.dropped,
        }
        return {
            "id": item["id"],
            "path": item["path"],
            "sha256": item["sha256"],
            "width": scores.width,
            "height": scores.height,
            "tags": selection.tags,
            "caption": caption.text,
            "rating": selection.rating,
            "attributes": attributes,
        }

    def _fingerprint(self, name: str) -> dict[str, str]:
        """Return the beginning of the sha256 of a model's files, where they were hashed."""
        return {"sha256": self._keys[name].split("-")[1]} if name in self._keys else {}

    @property
    def _gave_up(self) -> bool:
        return self._without_captioner.status.startswith("unavailable")

    def _go_without_captions(self, error: Exception) -> None:
        reason = " ".join(str(error).split())
        self._without_captioner = CaptionOutput(None, f"unavailable: {reason[:300]}")
        rank_zero_warn(f"labels will hold tags alone: {reason}")


def _wanting(batch: Batch, name: str) -> list[tuple[int, Item]]:
    return [(number, item) for number, item in enumerate(batch["items"]) if name in item["wants"]]
