"""Measures generated pictures: embeds each once, and makes the rows of the table from arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from elf.embedders import (
    CLIPEmbedder,
    EmbeddingCache,
    Kind,
    LoadedTagger,
    PictureEmbedder,
    TaggerEmbedder,
    TagScores,
    make_embedder,
)
from elf.errors import ElfError
from elf.evaluation import rows as table
from elf.evaluation.attributes import AttributeChecker, rate_rows
from elf.evaluation.plan import BASE, Plan, Variant
from elf.evaluation.rows import skipped
from elf.evaluation.schema import Nearest, Row
from elf.evaluation.store import PictureStore
from elf.images import write_png
from elf.metrics import SSCD_COPY, nearest_references, normalise
from elf.pretrained import expanded, is_local
from elf.resources import find

Array = np.ndarray
CLOSEST = 0.95  # of training pictures: what is nearer to one than so many are to each other


@dataclass
class Models:
    """What pictures are measured with, by folder or hub name; null leaves its metrics out.

    Attributes:
        clip: A CLIP model: does a picture fit its prompt?
        dino: A DINOv2 model: is it like the training pictures?
        copies: SSCD, a ``.torchscript.pt`` or ``.safetensors`` file: is it a copy of one?
        tagger: A WD tagger: does it show what was asked for?
    """

    clip: str | None = None
    dino: str | None = None
    copies: str | None = None
    tagger: str | None = None

    def absent(self) -> list[str]:
        """Return a line for each that is a path which leads nowhere, as its rows will say."""
        named = {key: name for key, name in asdict(self).items() if name is not None}
        return [
            f"model.models.{key}: there is no {name}, so what is measured with it is left out"
            for key, name in named.items()
            if is_local(find(name)) and not expanded(find(name)).exists()
        ]


USUAL = {"clip": "a CLIP model", "dino": "a DINOv2 model", "copy": "a file of SSCD's weights",
         "tagger": "a WD tagger"}  # fmt: skip


@dataclass(frozen=True)
class NearestPictures:
    """The training picture that is most like each generated one.

    Attributes:
        index: Its number (P, S).
        similarity: Cosine of their embeddings (P, S).
        copy: Whether that makes it a copy (P, S).
    """

    index: Int[Array, "P S"]
    similarity: Float[Array, "P S"]
    copy: Bool[Array, "P S"]


class References(Protocol):
    """Training pictures to compare with, each decoded when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Image.Image: ...


class Measuring:
    """Measures the pictures of one evaluation.

    Args:
        plan: What was generated.
        variants: By whom.
        store: Where it is.
        references: The training pictures; any sequence that decodes one when it is asked for.
        models: What they are measured with.
        embeddings: Folder of embeddings that are known; None keeps none.
        device: Where the models run.
    """

    def __init__(
        self,
        plan: Plan,
        variants: Sequence[Variant],
        store: PictureStore,
        references: "References",
        models: Models,
        embeddings: Path | None,
        device: Any,
    ) -> None:
        self.plan, self.variants, self.store = plan, variants, store
        self.references, self.models = references, models
        self.embeddings, self.device = embeddings, device
        self.nearest: dict[str, NearestPictures] = {}

    def rows(self, concept: str | None, threshold: float) -> list[Row]:
        """Return all rows, in the order of the report's questions.

        Args:
            concept: The tag of what the trigger stands for.
            threshold: A tag counts as shown from this probability on.
        """
        found = self._change_rows()
        kinds: tuple[Kind, ...] = ("dino", "tagger", "clip", "copy")
        embedders = {kind: self._embedder(kind) for kind in kinds}
        usable = {kind: one for kind, one in embedders.items() if not isinstance(one, str)}
        tables = {kind: self._tables(one) for kind, one in usable.items()}
        seen = {kind: self._seen(one) for kind, one in usable.items() if len(self.references)}
        subject = next((kind for kind in ("dino", "tagger", "clip") if kind in tables), None)
        found += self._subject_rows(subject, embedders, tables, seen)
        found += self._prompt_rows(embedders["clip"], tables.get("clip"))
        if subject is not None:
            by = self._named(subject)
            found += table.diversity_rows(self._triggered(tables[subject]), by)
            if not self.plan.triggered.all():
                untriggered = table.chosen(tables[subject], ~self.plan.triggered)
                note = f"distance from the base's pictures by {by}, prompts without the trigger"
                needed = table.UNTRIGGERED * len(self.plan.seeds)
                found += table.change_rows(untriggered, "drift", note, needed)
        found += self._copy_rows("copy" if "copy" in tables else subject, tables, seen)
        found += self._attribute_rows(embedders["tagger"], concept, threshold)
        return found

    # --- embedding --------------------------------------------------------------------------

    def _embedder(self, kind: Kind) -> Any:
        """Return an embedder, or in words why there is none."""
        key = "copies" if kind == "copy" else kind
        name = getattr(self.models, key)
        if name is None:
            return f"no {kind} model; set model.models.{key} to {USUAL[kind]}"
        try:
            return make_embedder(kind, name, self.device)
        except ElfError as error:
            return str(error)

    def _named(self, kind: str) -> str:
        return {"dino": "DINOv2", "clip": "CLIP", "tagger": "the tagger", "copy": "SSCD"}[kind]

    def _tables(self, embedder: PictureEmbedder) -> dict[str, Array]:
        """Return the embeddings (P, S, D) of each variant, each made once."""
        shape = (len(self.plan.prompts), len(self.plan.seeds), -1)
        with EmbeddingCache(self.embeddings, embedder) as cache:
            return {
                variant.name: cache.array(self._generated(variant)).reshape(shape)
                for variant in self.variants
            }

    def _generated(self, variant: Variant) -> Iterator[tuple[str, Image.Image]]:
        for number in range(len(self.plan)):
            yield str(self.store.path(variant, number)), self.store.read(variant, number)

    def _seen(self, embedder: PictureEmbedder) -> Float[Array, "M D"]:
        """Return the embeddings of the training pictures."""
        numbers = range(len(self.references))
        named = ((f"training picture {n + 1}", self.references[n]) for n in numbers)
        with EmbeddingCache(self.embeddings, embedder) as cache:
            return cache.array(named)

    def _triggered(self, tables: dict[str, Array]) -> dict[str, Array]:
        return dict(table.chosen(tables, self.plan.triggered))

    # --- rows -------------------------------------------------------------------------------

    def _change_rows(self) -> list[Row]:
        """Return how far the adapters' pixels are from the base's: did anything change at all?"""
        found = []
        for variant in self.variants:
            if variant == BASE:
                continue
            changes = np.array([self._pixel_change(variant, n) for n in range(len(self.plan))])
            note = "mean difference of a pixel from the base's, of 1"
            changes = changes.reshape(len(self.plan.prompts), -1)
            found.append(table.change_row("picture_change", variant.name, changes, note))
        return found

    def _pixel_change(self, variant: Variant, number: int) -> float:
        pair = [
            np.asarray(self.store.read(which, number), np.float32) / 255
            for which in (BASE, variant)
        ]
        return float(np.abs(pair[1] - pair[0]).mean())

    def _subject_rows(
        self, subject: str | None, embedders: Any, tables: Any, seen: Mapping[Any, Array]
    ) -> list[Row]:
        if subject is None:
            return [skipped("subject_similarity", str(embedders["dino"]))]
        if not seen:
            return [skipped("subject_similarity", "no training pictures; set data.shards")]
        count, found = len(self.references), list[Row]()
        for kind, name in ((subject, "subject_similarity"), ("clip", "subject_similarity_clip")):
            if kind in tables and not (name.endswith("clip") and subject == "clip"):
                scores = table.subject_scores(self._triggered(tables[kind]), seen[kind])
                note = f"{self._named(kind)} to {count} training pictures"
                found += table.compared(name, scores, table.ALIKE, "higher", note)
                if kind == subject:
                    note = f"of the way from the base to these by {self._named(kind)}"
                    found += table.share_rows(scores, seen[kind], note)
        if subject != "dino" and self.models.dino is not None:
            found.append(skipped("subject_similarity_dino", str(embedders["dino"])))
        triggered = self._triggered(tables[subject])
        by = self._named(subject)
        found += table.distribution_rows(triggered, seen[subject], by, clip=False)
        if "clip" in tables:
            triggered = self._triggered(tables["clip"])
            found += table.distribution_rows(triggered, seen["clip"], "CLIP", clip=True)
        return found + table.fid_rows(self._triggered(tables[subject]), seen[subject], by)

    def _prompt_rows(self, clip: CLIPEmbedder | str, tables: Any) -> list[Row]:
        if isinstance(clip, str):
            return [skipped("prompt_similarity", clip)]
        plan, texts = self.plan, clip.texts(self.plan.texts)
        found = []
        for suffix, prompts in (("", plan.triggered), ("_without_trigger", ~plan.triggered)):
            if not prompts.any():
                continue
            some = table.chosen(tables, prompts)
            note = "CLIP-T, trigger removed" if not suffix else "CLIP-T of the other prompts"
            scores = table.prompt_scores(some, texts[prompts])
            found += table.compared(
                f"prompt_similarity{suffix}", scores, table.PAIRED, "higher", note
            )
            if prompts.sum() > 1:
                scores = table.margin_scores(some, texts[prompts])
                note = "CLIP-T to a picture's own prompt less that to the others"
                found += table.compared(
                    f"prompt_margin{suffix}", scores, table.PAIRED, "higher", note, kept=True
                )
        return found

    def _copy_rows(self, kind: str | None, tables: Any, seen: Mapping[Any, Array]) -> list[Row]:
        if kind is None or kind not in seen:
            return [skipped("copies", "no training pictures, or no model to compare with them")]
        references = seen[kind]
        if kind == "copy":
            limit, how = SSCD_COPY, f"SSCD of at least {SSCD_COPY}"
        elif len(references) < 3:
            return [skipped("copies", "too few training pictures to tell what a copy is")]
        else:
            limit = closeness(references)
            how = (
                f"{self._named(kind)}: nearer to a training picture than {CLOSEST:.0%} of these "
                f"are to each other ({limit:.3f}); SSCD tells better: set model.models.copies"
            )
        shape = tables[kind][BASE.name].shape[:2]
        for variant, table_ in tables[kind].items():
            known = nearest_references(table.flat(table_), references)
            alike = known.similarity.reshape(shape)
            self.nearest[variant] = NearestPictures(
                known.index.reshape(shape), alike, alike >= limit
            )
        prompts, found = self.plan.triggered, list[Row]()
        how = f"of {len(references)} training pictures, {how}"
        copies = {v: one.copy[prompts].astype(float) for v, one in self.nearest.items()}
        note = f"share of copies: {how}"
        found += table.compared("copies", copies, None, "lower", note, shares=True)
        likeness = {v: one.similarity[prompts] for v, one in self.nearest.items()}
        note = f"{self._named(kind)} to the nearest training picture"
        return found + table.compared("nearest_similarity", likeness, None, None, note)

    def _attribute_rows(
        self, embedder: PictureEmbedder | str, concept: str | None, threshold: float
    ) -> list[Row]:
        if self.models.tagger is None:
            return [skipped("attributes", "no tagger; set model.models.tagger to a WD tagger")]
        try:
            tagger = (
                embedder.tagger
                if isinstance(embedder, TaggerEmbedder)
                else LoadedTagger(self.models.tagger, self.device)
            )
        except ElfError as error:
            return [skipped("attributes", str(error))]
        checker = AttributeChecker(tagger.names, threshold)
        with EmbeddingCache(self.embeddings, TagScores(tagger)) as cache:
            shown = {
                variant.name: [checker.tags(row) for row in cache.rows(self._generated(variant))]
                for variant in self.variants
            }
        return rate_rows(self.plan, shown, checker, concept)


def closeness(references: Float[Array, "M D"]) -> float:
    """Return how alike training pictures are to their nearest other one, the closest apart."""
    units = normalise(references)
    likeness = units @ units.T
    np.fill_diagonal(likeness, -1)
    return float(np.quantile(likeness.max(axis=1), CLOSEST))


def nearest_pictures(
    folder: Path, measuring: Measuring, variants: Sequence[Variant]
) -> Iterator[Nearest]:
    """Yield the training pictures most like some variants' pictures, and keep these in a folder."""
    kept: set[int] = set()
    for variant in variants:
        found = measuring.nearest.get(variant.name)
        if found is None:
            continue
        for prompt, place in np.ndindex(found.index.shape):
            number = int(found.index[prompt, place])
            file = f"pictures/training/{number:04d}.png"
            if number not in kept:
                kept.add(number)
                write_png(folder / file, measuring.references[number])
            yield Nearest(
                variant.name,
                prompt,
                measuring.plan.seeds[place],
                file,
                float(found.similarity[prompt, place]),
                bool(found.copy[prompt, place]),
            )
