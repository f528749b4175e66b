"""Measures the tiny models on held-out drawings and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from elf.tiny.data import Pictures, padded
from elf.world.scene import Scene
from elf.world.words import caption, read_caption, tag_groups

THRESHOLD = 0.5
"""Probability from which a tag counts as found."""


@dataclass
class OnnxTagger:
    """A tagger folder, read through onnxruntime as any WD tagger is."""

    folder: str | Path

    def __post_init__(self) -> None:
        """Open the session and read the tag list."""
        import csv

        import onnxruntime

        path = Path(self.folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(
            str(path / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        with (path / "selected_tags.csv").open(encoding="utf-8", newline="") as file:
            self.names = [row["name"] for row in csv.DictReader(file)]

    def probabilities(self, pictures: Pictures) -> Float32[np.ndarray, "pictures tags"]:
        """Probabilities of all tags for pictures of any of the world's sizes."""
        bgr = padded(pictures)[..., ::-1].astype(np.float32)
        batches = [bgr[start : start + 128] for start in range(0, len(bgr), 128)]
        outputs = [self.session.run(None, {"input": batch})[0] for batch in batches]
        return np.concatenate(outputs)

    def found(self, pictures: Pictures) -> list[set[str]]:
        """The tags found in each picture."""
        hits = self.probabilities(pictures) >= THRESHOLD
        return [{self.names[column] for column in np.flatnonzero(row)} for row in hits]


def macro_f1(
    probabilities: Float32[np.ndarray, "pictures tags"],
    truth: Float32[np.ndarray, "pictures tags"],
    threshold: float = THRESHOLD,
) -> tuple[float, Float32[np.ndarray, " tags"]]:
    """Mean F1 over the tags that occur, and the F1 of each (NaN where none occurs)."""
    found, true = probabilities >= threshold, truth > 0.5
    hits = (found & true).sum(0)
    with np.errstate(invalid="ignore"):
        scores = 2 * hits / (found.sum(0) + true.sum(0))
    scores = np.where(true.any(0), scores, np.nan).astype(np.float32)
    return float(np.nanmean(scores)), scores


def attribute_rate(
    found: Sequence[set[str]], scenes: Sequence[Scene]
) -> tuple[float, dict[str, float]]:
    """Share of the scenes' attributes whose tags are all found, overall and by attribute."""
    hits: dict[str, list[bool]] = {}
    for names, scene in zip(found, scenes, strict=True):
        for attribute, group in tag_groups(scene).items():
            hits.setdefault(attribute, []).append(set(group) <= names)
    rates = {attribute: float(np.mean(values)) for attribute, values in hits.items()}
    return float(np.mean([hit for values in hits.values() for hit in values])), rates


def caption_rate(sentences: Sequence[str], scenes: Sequence[Scene]) -> float:
    """Share of the attributes that the sentences name rightly, absent things included."""
    hits = []
    for sentence, scene in zip(sentences, scenes, strict=True):
        truth, said = read_caption(caption(scene)), read_caption(sentence)
        hits += [said.get(attribute) == value for attribute, value in truth.items()]
    return float(np.mean(hits))
