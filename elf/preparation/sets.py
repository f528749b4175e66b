"""Sets of pictures that are trained on together, each with options of its own."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from elf.errors import ElfError
from elf.preparation.captionoptions import (
    KEYS,
    NOTHING,
    CaptionKind,
    CaptionOptions,
    TextStates,
    resolve,
)
from elf.preparation.captions import Captions
from elf.training.epoch import Indices, balance

# What decides only how a set is trained on, and where it lies: not what is in the shards.
_NOT_STORED = ("pictures", "tars", "labels", "masks", "repeats", "caption_dropout", "weight",
               "sentence_share")  # fmt: skip


@dataclass(frozen=True)
class PictureSet(CaptionOptions):
    """One of several sets of pictures; options of captions not given are those of ``data``.

    Attributes:
        pictures: Folder of pictures.
        tars: Instead of a folder, tars with pictures: a path, a glob, or a list of them.
        labels: Folder with a ``manifest.jsonl``, which knows pictures by their content. Left out,
            captions are those beside the pictures: ``name.txt``, in tars also the ``.json``'s.
        caption: Of what is in the labels, the tags, the sentence, both, or either of the two, drawn
            each time; data.caption if not given.
        default_caption: Of pictures with no caption beside them, which are left out otherwise.
        trigger: Trigger word of the captions; data.trigger if not given, none if "". Captions
            beside pictures and in tars get it in front if they lack it; labels have it.
        masks: Folder of masks, named as the pictures. ``name.mask.png`` beside a picture, in
            tars too, needs no such folder.
        alpha_mask: The alpha channel of pictures that have one is their mask.
        repeats: How many times each picture stands in an epoch.
        caption_dropout: Share of samples with the empty caption, 0-1; data.caption_dropout if not
            given.
        regularisation: Class pictures, which keep what the base knows of the class (Ruiz et al.
            2023). They are never held out, and stand in an epoch as often as all others together;
            ``repeats`` weighs them against each other.
        unrelated: Pictures that show nothing of what is learnt, and are never trained on: the
            validation loss measures on them what is forgotten.
        flip: Each sample is mirrored, left to right, with probability ½.
        weight: Factor of the loss; of class pictures, the prior loss weight.
    """

    pictures: str | None = None
    tars: str | list[str] | None = None
    labels: str | None = None
    caption: CaptionKind | None = None
    default_caption: str | None = None
    trigger: str | None = None
    masks: str | None = None
    alpha_mask: bool = False
    repeats: int = 1
    caption_dropout: float | None = None
    regularisation: bool = False
    unrelated: bool = False
    flip: bool = False
    weight: float = 1.0

    def stored(self) -> dict[str, Any]:
        """Return the options that decide what is in the shards.

        What came later than the first shards is there only where it is set.
        """
        values = {key: value for key, value in asdict(self).items() if key not in _NOT_STORED}
        later = {*KEYS, "unrelated"}
        return {k: v for k, v in values.items() if k not in later or v not in (None, False)}

    def trained(self) -> dict[str, Any]:
        """Return the options that change what an epoch is, where they are set."""
        plain = PictureSet()
        options = ("repeats", "regularisation", "flip", "weight")
        return {k: v for k in options if (v := getattr(self, k)) != getattr(plain, k)}

    def drawn(self) -> str:
        """Return in words what is drawn of captions, empty if nothing is."""
        return ", ".join(f"{key} {value}" for key, value in self.given().items())

    def captions(self, text: str, sentence: str = "", trigger: str = "") -> Captions:
        """Return what a picture of this set may be trained with.

        Args:
            text: Its caption.
            sentence: The sentence in it, or beside it.
            trigger: The word that its label was made with, if the set names none.
        """
        return Captions(text, self, sentence, self.trigger or trigger, self.caption == "either")


def fill_in(
    sets: Sequence[PictureSet],
    caption: CaptionKind,
    trigger: str | None,
    caption_dropout: float,
    options: CaptionOptions = NOTHING,
    text_states: TextStates = "cached",
) -> tuple[PictureSet, ...]:
    """Return sets with what they leave out, after checking that they make sense.

    Args:
        sets: As the configuration has them.
        caption: What labels are used for, where a set does not say it.
        trigger: The trigger word of the sets that do not say it, class pictures apart.
        caption_dropout: Share of samples with the empty caption, where a set does not say it.
        options: What is drawn of captions, where a set does not say it.
        text_states: Whether text states are cached.

    Raises:
        ElfError: If a set does not make sense, with the key.
    """
    for number, each in enumerate(sets):
        if problem := _problem(each):
            raise ElfError(f"data.sets[{number}]{problem}")
    if sets and all(each.regularisation or each.unrelated for each in sets):
        kind = "regularisation" if sets[0].regularisation else "unrelated"
        raise ElfError(f"data.sets: all are {kind} sets; add the pictures to be learnt")
    kinds = [(each.caption or caption) if each.labels else None for each in sets]
    drawn = resolve(options, sets, kinds, text_states == "live")
    return tuple(
        replace(
            each,
            **{key: getattr(own, key) for key in KEYS},
            caption=kind,
            trigger=_trigger(each, trigger),
            caption_dropout=(
                caption_dropout if each.caption_dropout is None else each.caption_dropout
            ),
        )
        for each, kind, own in zip(sets, kinds, drawn, strict=True)
    )


def times_an_epoch(sets: Sequence[PictureSet], numbers: npt.ArrayLike) -> Indices:
    """Return how many times each sample stands in an epoch, given the numbers of their sets."""
    numbers = np.asarray(numbers, np.int64)
    repeats = np.array([each.repeats for each in sets])
    classes = np.array([each.regularisation for each in sets])
    return balance(repeats[numbers], classes[numbers])


def _trigger(each: PictureSet, trigger: str | None) -> str | None:
    if each.regularisation or each.unrelated:
        return None
    return (trigger if each.trigger is None else each.trigger) or None


def _problem(each: PictureSet) -> str:
    """Return what is wrong with a set, behind its number."""
    if (each.pictures is None) == (each.tars is None):
        return ": give pictures (a folder) or tars, one of the two"
    if each.repeats < 1:
        return f".repeats {each.repeats} is too small: at least 1"
    if each.caption_dropout is not None and not 0 <= each.caption_dropout <= 1:
        return f".caption_dropout {each.caption_dropout} is a share: give a number from 0 to 1"
    if not 0 < each.weight < float("inf"):
        return f".weight {each.weight} is no factor of a loss: give a number above 0"
    if each.regularisation and each.trigger:
        return f".trigger {each.trigger!r}: class pictures have none; leave it out"
    if each.unrelated and each.trigger:
        return f".trigger {each.trigger!r}: unrelated pictures have none; leave it out"
    if each.unrelated and each.trained():
        return f".{next(iter(each.trained()))}: unrelated pictures are not trained on; leave it out"
    if each.trigger and not each.trigger.strip():
        return f'.trigger {each.trigger!r} is blank: give a word, or "" for none'
    if each.caption and not each.labels:
        return f".caption {each.caption!r} chooses among labels: give labels, or leave it out"
    if each.default_caption is not None and each.labels:
        return ".default_caption is for pictures without labels: leave one of the two out"
    if each.default_caption is not None and not each.default_caption.strip():
        return ".default_caption is empty: give a caption, or leave it out"
    if each.masks and each.tars is not None:
        return ".masks: masks of tars stand in them as name.mask.png; leave the folder out"
    if each.masks and each.alpha_mask:
        return ".masks and alpha_mask: give one of the two"
    return ""
