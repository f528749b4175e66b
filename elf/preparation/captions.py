"""The caption that a picture is trained with, as a pure function of the caption and a seed.

A caption is tags with commas between them, and perhaps a sentence behind them. Of the tags, those
that hold the trigger come first, then those to keep, then the others: shuffled, and some of them
left out. As in kohya's scripts (``shuffle_caption``, ``keep_tokens``, ``keep_tokens_separator``,
``caption_tag_dropout_rate``), but that no trigger can be lost.
"""

import re
from dataclasses import dataclass

import numpy as np

from elf.draws import Words, draw_seed, id_words, uniform
from elf.preparation.captionoptions import NOTHING, CaptionOptions
from elf.preparation.trigger import has_trigger, without_trigger
from elf.training.epoch import Indices


@dataclass(frozen=True)
class Parts:
    """The pieces of a caption, in the order in which they are joined.

    Attributes:
        kept: Tags with the trigger, and those that are kept.
        tags: Those that are shuffled and dropped.
        behind: What stays at the end: tags behind a second separator, and the sentence.
    """

    kept: tuple[str, ...]
    tags: tuple[str, ...]
    behind: tuple[str, ...] = ()


def take_apart(text: str, options: CaptionOptions, sentence: str = "", trigger: str = "") -> Parts:
    """Return the pieces of a caption.

    Args:
        text: The caption.
        options: What is to be kept of it.
        sentence: What is no tags of it, though it may hold commas.
        trigger: The word whose tags are put in front.
    """
    behind: tuple[str, ...] = ()
    if sentence and (rest := without_sentence(text, sentence)) is not None:
        text, behind = rest, (sentence,)
    separator = options.keep_separator
    if separator and separator in text:
        first, middle, *last = text.split(separator, 2)
        kept, tags = split(first), split(middle)
        behind = (*split(last[0].replace(separator, ",") if last else ""), *behind)
        number = 0
    else:
        kept, tags, number = (), split(text), options.keep_tags or 0
    if trigger:
        front = tuple(tag for tag in tags if trigger in tag and has_trigger(tag, trigger))
        kept, tags = front + kept, tuple(tag for tag in tags if tag not in front)
    return Parts((*kept, *tags[:number]), tags[number:], behind)


def compose(parts: Parts, options: CaptionOptions, seed: int) -> str:
    """Return a caption of these pieces, drawn from a seed: any order is as likely as any other.

    Args:
        parts: The pieces.
        options: Whether tags are shuffled, and which share is left out.
        seed: From 0 to 2⁶³ − 1.
    """
    tags = list(parts.tags)
    # one number for each tag and purpose, by its place in the caption
    words = np.full(len(tags), seed, np.uint64)
    seeds = draw_seed(0, 0, words, np.arange(len(tags)))
    places = np.arange(len(tags))
    if options.shuffle_tags:
        places = np.argsort(uniform(seeds, "tag order"))
    if options.tag_dropout:
        stays = uniform(seeds, "tag dropout") >= options.tag_dropout
        places = places[stays[places]]
    return ", ".join([*parts.kept, *(tags[place] for place in places.tolist()), *parts.behind])


def variant_seeds(words: Words, numbers: Indices) -> Indices:
    """Return the seeds of cached captions: by the picture (its ``id_words``) and their number.

    The run's seed is not among them: runs with several seeds share the cached captions, and each
    draws which of them it takes when.
    """
    return draw_seed(0, 0, words, numbers)


@dataclass(frozen=True)
class Captions:
    """All that one picture may be trained with.

    Attributes:
        text: Its caption as it stands.
        options: What is drawn of it.
        sentence: The sentence, if one is in the caption, or may stand for it (``either``).
        trigger: The word that stays in front.
        either: Whether the sentence stands for the caption in a share of the samples.
    """

    text: str
    options: CaptionOptions = NOTHING
    sentence: str = ""
    trigger: str = ""
    either: bool = False

    @property
    def plain(self) -> str:
        """The caption with nothing drawn: as it stands, without separators."""
        separator = self.options.keep_separator
        if not separator or separator not in self.text:
            return self.text
        joined = re.sub(rf"[\s,]*{re.escape(separator)}[\s,]*", ", ", self.text)
        return joined.strip(" ,")

    def drawn(self, seed: int | None, sentence: bool = False) -> str:
        """Return the caption of a sample.

        Args:
            seed: What its tags are drawn from; None for none.
            sentence: Whether it is one with the sentence.
        """
        if sentence and self.either:
            alone = not self.trigger or has_trigger(self.sentence, self.trigger)
            return self.sentence if alone else f"{self.trigger}, {self.sentence}"
        if seed is None or not self.options.varied:
            return self.plain
        inside = "" if self.either else self.sentence
        parts = take_apart(self.text, self.options, inside, self.trigger)
        return compose(parts, self.options, seed)

    def cached(self, key: str, trained: bool = True, trigger: str | None = None) -> set[str]:
        """Return all captions that text states are cached of for a picture.

        Args:
            key: The picture's id.
            trained: Whether it is trained on; of others the plain caption is enough.
            trigger: The word without which captions are wanted too.
        """
        found = {self.plain}
        if trained and self.either:
            found.add(self.drawn(None, sentence=True))
        if trained and self.options.varied:
            count = self.options.caption_variants or 1
            seeds = variant_seeds(id_words([key]), np.arange(count))
            found |= {self.drawn(seed) for seed in seeds.tolist()}
        if trigger:
            found |= {without_trigger(text, trigger) for text in found}
        return found


def split(text: str) -> tuple[str, ...]:
    """Return the tags of a text."""
    return tuple(tag for part in text.split(",") if (tag := part.strip()))


def without_sentence(text: str, sentence: str) -> str | None:
    """Return a caption without the sentence in it; None if it is not there, between commas."""
    found = list(re.finditer(rf"(?:^|,)\s*{re.escape(sentence)}\s*(?=,|$)", text))
    if not found:
        return None
    return (text[: found[-1].start()] + text[found[-1].end() :]).strip(" ,")
