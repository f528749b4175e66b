"""What a preparation did, in figures and in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from elf.counted import counted, some
from elf.preparation.buckets import Size
from elf.preparation.captionsummary import CaptionSummary
from elf.preparation.encoding import Picture
from elf.preparation.selecting import Selection, samples_of
from elf.preparation.sets import times_an_epoch
from elf.preparation.sources import Dropped
from elf.training.epoch import Indices

_SHOWN = 10  # dropped pictures that are named
_ROWS = 24  # buckets that are shown: without upscaling each size is one
_BAR = 30  # characters of the longest bar of the histogram


@dataclass(frozen=True)
class SetSummary:
    """What became of one set.

    Attributes:
        name: Where it is.
        pictures: How many are trained on.
        held_out: How many are kept for validation.
        samples: Times that its pictures stand in an epoch.
        unused: Class pictures that do not stand in an epoch, for there are more than are wanted.
        masks: Pictures that have a mask.
        crop_loss: Mean share of a resized picture that was cropped away, 0-1.
        dropped: How many were left out.
        options: What is not as usual.
    """

    name: str
    pictures: int
    held_out: int
    samples: int
    unused: int
    masks: int
    crop_loss: float
    dropped: int
    options: str


@dataclass(frozen=True)
class Summary:
    """What a preparation did.

    Attributes:
        pictures: How many are trained on.
        held_out: How many are kept for validation.
        buckets: How many pictures each bucket has, (width, height) in px.
        crop_loss: Mean share of a resized picture that was cropped away, 0-1.
        dropped: What was left out, and why.
        texts: What captions training has.
        rendered: Pictures made in this run; the rest was there.
        latents: Made in this run, those of mirrored pictures too.
        captions: Whose states were made in this run.
        masks: Made in this run.
        samples: How many times pictures of each bucket stand in an epoch.
        batch: Pictures a step in training.
        sets: What became of each set.
    """

    pictures: int
    held_out: int
    buckets: dict[Size, int]
    crop_loss: float
    dropped: list[Dropped]
    texts: CaptionSummary
    rendered: int = 0
    latents: int = 0
    captions: int = 0
    masks: int = 0
    samples: dict[Size, int] = field(default_factory=dict)
    batch: int = 1
    sets: list[SetSummary] = field(default_factory=list)

    def fills(self, bucket: Size) -> int:
        """Return how many places of a bucket's last batch are filled with pictures once more."""
        return -self.samples.get(bucket, 0) % self.batch

    def __str__(self) -> str:
        made = [
            counted(self.rendered, "picture"),
            counted(self.latents, "latent"),
            counted(self.captions, "caption state"),
            counted(self.masks, "mask"),
        ]
        return "\n".join(
            [
                f"pictures   {self.pictures} to train on, {self.held_out} held out",
                *self._sets(),
                *self._histogram(),
                f"crop loss  {self.crop_loss:.1%} of the area on average",
                *self.texts.lines(),
                f"made now   {', '.join(made)}",
                *self._dropped(),
            ]
        )

    def _sets(self) -> list[str]:
        lines = []
        for number, each in enumerate(self.sets):
            figures = [
                counted(each.pictures, "picture"),
                f"{counted(each.samples, 'sample')} an epoch",
            ]
            figures += [f"{each.unused} not used"] * bool(each.unused)
            figures += [f"{each.held_out} held out"] * bool(each.held_out)
            figures += [counted(each.masks, "mask")] * bool(each.masks)
            figures += [f"{each.dropped} dropped"] * bool(each.dropped)
            loss = f"crop loss {each.crop_loss:.1%}"
            lines.append(f"  set {number}    {each.name}{each.options}")
            lines.append(f"           {', '.join([*figures, loss])}")
        return lines if len(self.sets) > 1 else []

    def _histogram(self) -> list[str]:
        fills = sum(map(self.fills, self.buckets))
        places = sum(self.samples.values())
        lines = [
            f"samples    {places} an epoch in batches of {self.batch}, {fills} more to fill "
            "rows (data.remainder)"
        ]
        most = max(self.samples.values(), default=0) or 1
        by_count = sorted(self.buckets.items(), key=lambda bucket: (-bucket[1], bucket[0]))
        for (width, height), count in by_count[:_ROWS]:
            samples = self.samples.get((width, height), 0)
            bar = "█" * round(_BAR * samples / most)
            filled = f" +{fill}" if (fill := self.fills((width, height))) else ""
            times = f", {counted(samples, 'sample')}" if samples != count else ""
            lines.append(f"  {f'{width}×{height}: {count}':<15}{bar}{times}{filled}".rstrip())
        if rest := by_count[_ROWS:]:
            lines.append(f"  {len(rest)} more buckets: {sum(count for _, count in rest)}")
        return lines

    def _dropped(self) -> list[str]:
        reasons = Counter((dropped.set, dropped.reason) for dropped in self.dropped)
        several = len(self.sets) > 1
        where = {number: f" (set {number})" if several else "" for number, _ in reasons}
        return [
            f"dropped    {len(self.dropped)}",
            *(f"  {count} × {why}{where[n]}" for (n, why), count in reasons.most_common()),
            *some([f"  {drop.path}: {drop.reason}" for drop in self.dropped], _SHOWN),
        ]


def summarise(
    selection: Selection,
    dropped: list[Dropped],
    made: Mapping[str, int],
    batch: int,
    texts: CaptionSummary,
) -> Summary:
    """Return what a preparation did.

    Args:
        selection: What is in the shards.
        dropped: What was left out.
        made: How many samples of each kind of shards were made.
        batch: Pictures a step in training.
        texts: What captions training has.
    """
    sets, chosen, held = selection.sets, selection.pictures, selection.held
    trained = selection.trained()
    numbers: Indices = np.array([picture.source.set for picture in trained], np.int64)
    times = times_an_epoch(sets, numbers)
    return Summary(
        pictures=len(trained),
        held_out=len(held),
        buckets=dict(Counter(picture.placed.bucket for picture in chosen)),
        crop_loss=_mean_loss(chosen),
        dropped=dropped,
        rendered=made["train"] + made["heldout"],
        latents=made["latents"] + made["flipped"],
        captions=made["captions"],
        masks=made["masks"],
        samples=samples_of((picture.placed.bucket for picture in trained), times),
        batch=batch,
        sets=[_of_set(number, selection, numbers, times, dropped) for number in range(len(sets))],
        texts=texts,
    )


def _of_set(
    number: int, selection: Selection, numbers: Indices, times: Indices, dropped: list[Dropped]
) -> SetSummary:
    each = selection.sets[number]
    chosen = [picture for picture in selection.pictures if picture.source.set == number]
    return SetSummary(
        name=str(each.pictures or each.tars),
        pictures=int(np.count_nonzero(numbers == number)),
        held_out=sum(picture.source.id in selection.held for picture in chosen),
        samples=int(times[numbers == number].sum()),
        unused=int(np.count_nonzero(times[numbers == number] == 0)),
        masks=sum(picture.mask is not None for picture in chosen),
        crop_loss=_mean_loss(chosen),
        dropped=sum(drop.set == number for drop in dropped),
        options="".join(f", {key} {value}" for key, value in each.trained().items())
        + (f", {drawn}" if (drawn := each.drawn()) else ""),
    )


def _mean_loss(pictures: Sequence[Picture]) -> float:
    return float(np.mean([picture.placed.loss for picture in pictures])) if pictures else 0.0
