"""What is to be in the shards: which pictures are trained on, and what is cached of each.

`elf prepare` makes this, and `elf plan` counts it before.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from elf.preparation.buckets import Size
from elf.preparation.encoding import Picture
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings
from elf.preparation.splitting import held_out
from elf.training.epoch import Indices


@dataclass(frozen=True)
class Selection:
    """What is to be in the shards.

    Attributes:
        sets: The sets.
        pictures: The pictures that are left.
        held: Ids of those that are kept for validation.
        texts: All that text states are cached of; none if they are made while training.
    """

    sets: Sequence[PictureSet]
    pictures: Sequence[Picture]
    held: set[str]
    texts: set[str]

    def trained(self) -> list[Picture]:
        """Return the pictures that are trained on, in the order of the samples: that of ids."""
        trained = (picture for picture in self.pictures if picture.source.id not in self.held)
        return sorted(trained, key=lambda picture: picture.source.id)

    def cached(self, flipped: bool) -> list[Picture]:
        """Return the pictures whose latents are cached, or those that also are mirrored."""
        return [
            picture
            for picture in self.pictures
            if not flipped
            or (self.sets[picture.source.set].flip and picture.source.id not in self.held)
        ]


def learnt(sets: Sequence[PictureSet], chosen: Sequence[Picture]) -> list[str]:
    """Return the ids of what is to be learnt: neither class pictures nor unrelated ones."""
    return [
        picture.source.id
        for picture in chosen
        if not (sets[picture.source.set].regularisation or sets[picture.source.set].unrelated)
    ]


def select(settings: Settings, sets: Sequence[PictureSet], chosen: Sequence[Picture]) -> Selection:
    """Return what is to be in the shards.

    Args:
        settings: Of the split and the text states.
        sets: The sets.
        chosen: The pictures that can be used; something is to be learnt of some.
    """
    held = held_out(learnt(sets, chosen), settings.held_out)
    held |= {picture.source.id for picture in chosen if sets[picture.source.set].unrelated}
    texts = _wanted_texts(sets, chosen, held) if settings.text_states == "cached" else set()
    return Selection(sets, chosen, held, texts)


def samples_of(buckets: Iterable[Size], times: Indices) -> dict[Size, int]:
    """Return how many samples of each bucket stand in an epoch.

    Args:
        buckets: Those of the pictures that are trained on.
        times: How many times each of these stands in it (`elf.preparation.sets.times_an_epoch`).
    """
    samples: Counter[Size] = Counter()
    for bucket, count in zip(buckets, times.tolist(), strict=True):
        samples[bucket] += count
    return dict(samples)


def _wanted_texts(
    sets: Sequence[PictureSet], chosen: Sequence[Picture], held: set[str]
) -> set[str]:
    """Return all that text states are wanted of: captions, those without trigger, the empty one."""
    texts = {""}
    for picture in chosen:
        source, each = picture.source, sets[picture.source.set]
        captions = each.captions(source.caption, source.sentence, source.trigger)
        texts |= captions.cached(source.id, source.id not in held, each.trigger)
    return texts
