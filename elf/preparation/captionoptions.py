"""What the configuration says of captions in training, and whether it makes sense."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from elf.errors import ElfError

CaptionKind = Literal["tags", "sentence", "both", "either"]
TextStates = Literal["cached", "live"]

VARIANTS = 8
"""Captions cached of a picture whose tags are shuffled or dropped, where no number is given."""

SENTENCE_SHARE = 0.5

POOL = ("shuffle_tags", "keep_tags", "tag_dropout", "caption_variants")
"""What decides which captions text states are cached of. (A separator also decides what the
caption is that nothing is drawn for.)"""


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """What is drawn anew for a caption; None: what ``data`` says, or nothing.

    Attributes:
        shuffle_tags: Whether the tags get another order each time; the trigger stays in front,
            a sentence behind them.
        keep_tags: How many of the first tags keep their place, and are never dropped; the trigger
            is not counted.
        tag_dropout: The share of the other tags that is left out, 0-1.
        keep_separator: A text that stands in captions behind the tags to keep, instead of a number
            of them, and perhaps a second time before tags that stay at the end; "" for none.
        sentence_share: With caption ``either``, the share of samples with the sentence, 0-1.
        caption_variants: How many captions text states are cached of for each picture whose tags
            are shuffled or dropped.
    """

    shuffle_tags: bool | None = None
    keep_tags: int | None = None
    tag_dropout: float | None = None
    keep_separator: str | None = None
    sentence_share: float | None = None
    caption_variants: int | None = None

    @property
    def varied(self) -> bool:
        """Whether a caption is not always the same."""
        return bool(self.shuffle_tags or self.tag_dropout)

    def given(self) -> dict[str, Any]:
        """Return the options that are set, of captions alone."""
        return {k: v for k in KEYS if (v := getattr(self, k)) is not None}


KEYS = tuple(field.name for field in fields(CaptionOptions))
NOTHING = CaptionOptions()
"""Options of which none is given."""


def resolve(
    data: CaptionOptions,
    sets: Sequence[CaptionOptions],
    kinds: Sequence[CaptionKind | None],
    live: bool,
) -> list[CaptionOptions]:
    """Return the options of sets with those of ``data`` filled in, and None where one does nothing.

    Args:
        data: What is said for all sets.
        sets: What each says. The one of the plain keys says nothing.
        kinds: What each is trained with; None where there is no choice, then it is tags.
        live: Whether captions are encoded while training, so that none are cached.

    Raises:
        ElfError: If an option is out of its range or has no effect, with the key.
    """
    for name, options in [("data", data), *((f"data.sets[{n}]", s) for n, s in enumerate(sets))]:
        if problem := _problem(options):
            raise ElfError(f"{name}.{problem}")
    filled = [CaptionOptions(**{**data.given(), **each.given()}) for each in sets]
    useless = [_useless(each, kind, live) for each, kind in zip(filled, kinds, strict=True)]
    for number, (each, reasons) in enumerate(zip(sets, useless, strict=True)):
        for key in (key for key in reasons if getattr(each, key) is not None):
            raise ElfError(f"data.sets[{number}].{key} {getattr(each, key)}: {reasons[key]}")
    for key, value in data.given().items():
        heirs = [why.get(key) for each, why in zip(sets, useless, strict=True)
                 if getattr(each, key) is None]  # fmt: skip
        if heirs and all(heirs):
            raise ElfError(f"data.{key} {value}: {heirs[0]}")
    return [_effective(each, kind, live) for each, kind in zip(filled, kinds, strict=True)]


def _problem(options: CaptionOptions) -> str:
    """Return what is wrong with a value, behind the name of whose it is."""
    for key, least in (("keep_tags", 0), ("caption_variants", 1)):
        number = getattr(options, key)
        if number is not None and number < least:
            return f"{key} {number} is too small: at least {least}"
    for key in ("tag_dropout", "sentence_share"):
        share = getattr(options, key)
        if share is not None and not 0 <= share <= 1:
            return f"{key} {share} is a share: give a number from 0 to 1"
    separator = options.keep_separator
    if separator and (not separator.strip() or "," in separator):
        return f"keep_separator {separator!r} stands between all tags or words: give one like '|||'"
    return ""


def _useless(options: CaptionOptions, kind: CaptionKind | None, live: bool) -> dict[str, str]:
    """Return the options that have no effect, with the reason and the way out."""
    sentence = "a sentence has no tags: set caption to tags, both or either, or leave it out"
    fixed = "no tag is shuffled or dropped: set shuffle_tags or tag_dropout too, or leave it out"
    found: dict[str, str] = {}
    if kind == "sentence":
        found |= {key: sentence for key in ("shuffle_tags", "tag_dropout") if getattr(options, key)}
    varied = options.varied and not found
    if options.keep_tags and not varied:
        found["keep_tags"] = fixed
    if (options.caption_variants or 1) > 1 and not varied:
        found["caption_variants"] = fixed
    if options.caption_variants and live:
        found["caption_variants"] = (
            "with text_states live no caption is cached, and each is drawn anew: leave it out, or "
            "set text_states to cached"
        )
    if options.sentence_share is not None and kind != "either":
        found["sentence_share"] = "only caption either draws one of two: set that, or leave it out"
    return found


def _effective(options: CaptionOptions, kind: CaptionKind | None, live: bool) -> CaptionOptions:
    tags = kind != "sentence"
    varied = options.varied and tags
    share = SENTENCE_SHARE if options.sentence_share is None else options.sentence_share
    variants = (options.caption_variants or VARIANTS) if varied and not live else None
    return CaptionOptions(
        shuffle_tags=(options.shuffle_tags or None) if tags else None,
        tag_dropout=(options.tag_dropout or None) if tags else None,
        keep_tags=(options.keep_tags or None) if varied else None,
        keep_separator=options.keep_separator or None,
        sentence_share=share if kind == "either" else None,
        caption_variants=variants,
    )
