"""How labels are made of scores and captions: the configuration of the rules.

They act in this order, which is also the order in which an explanation names them: weights
(``style``, ``weights``), cutoffs (``threshold``, ``thresholds``, ``mcut``, ``style``, ``noise``,
``vocabularies``), the order by weighted score, ``replace``, ``remove``, the caps, ``first``, tags
from the caption, ``append``, and the trigger in front of all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from elf.errors import ElfError
from elf.taggers.tags import CATEGORIES
from elf.taggers.vocabulary import (
    ATTIRE,
    CAPTION_TAGS,
    FOREST,
    MAGIC,
    NOISE_TAGS,
    REALISM,
    STYLE_TAGS,
)

Names = tuple[str, ...]
"""Tags as they stand in the list, or with spaces; ``*`` stands for any characters."""


@dataclass(frozen=True)
class StyleRules:
    """What holds down the tags of drawn styles, for labels of realistic pictures.

    Args:
        prefixes: A tag whose name starts so is a style tag.
        tags: Further style tags.
        exceptions: Names that are none although a prefix fits (a bone's shape).
        weight: A style tag's score is multiplied by it (0.65 is 35 % down).
        threshold: Cutoff of a style tag's weighted score; none takes its category's.
        max_tags: Most style tags in a label.
    """

    prefixes: Names = ("anime", "cartoon", "lineart")
    tags: Names = STYLE_TAGS
    exceptions: Names = ("cartoon_bone",)
    weight: float = 0.65
    threshold: float | None = None
    max_tags: int = 5


@dataclass(frozen=True)
class NoiseRules:
    """Tags that need a surer score.

    Args:
        tags: Their names.
        exceptions: Names that are none of them although a pattern fits.
        threshold: Cutoff of their weighted score, if it is above the one they have otherwise.
    """

    tags: Names = NOISE_TAGS
    exceptions: Names = ()
    threshold: float = 0.5


@dataclass(frozen=True)
class WeightRule:
    """A factor on the scores of some tags.

    Args:
        tags: Their names.
        weight: The factor, 0 to 1.
        exceptions: Names that are none of them although a pattern fits.
    """

    tags: Names
    weight: float
    exceptions: Names = ()


@dataclass(frozen=True)
class Vocabulary:
    """Tags whose cutoff is lifted or lowered.

    Args:
        tags: Their names.
        shift: Added to their cutoff: below 0 they come sooner, above 0 later.
        exceptions: Names that are none of them although a pattern fits.
    """

    tags: Names
    shift: float
    exceptions: Names = ()


def _vocabularies() -> dict[str, Vocabulary]:
    return {
        "forest": Vocabulary(FOREST, -0.06),
        "magic": Vocabulary(MAGIC, -0.05),
        "attire": Vocabulary(ATTIRE, -0.05),
        "realism": Vocabulary(REALISM, -0.08),
    }


@dataclass(frozen=True)
class Rules:
    r"""How labels are made.

    Args:
        trigger: The word that stands first in every label as it is written here; empty for none.
        threshold: Cutoff of a tag's (weighted) score.
        thresholds: Cutoffs that differ, by category.
        mcut: Categories whose cutoff is found in each picture's scores: the middle of their
            largest gap (Largeron et al. 2012, MCut).
        mcut_floor: Where such a cutoff ends at the lowest.
        style: The rules for tags of drawn styles.
        weights: Further factors on scores, by a name of your own.
        noise: The stricter cutoff.
        vocabularies: Cutoffs lifted or lowered, by a name of your own.
        replace: Tags that are written otherwise, in this order; a later one sees what an earlier
            one wrote.
        remove: Tags that are never written.
        max_tags: Most tags in a label, all included.
        max_per_category: Most tags of a category.
        first: Tags that stand behind the trigger, in this order, if the label has them.
        caption_tags: Words of the caption, and the tag that each gives.
        max_caption_tags: Most tags that come from the caption.
        append: Tags that end every label.
        keep_underscores: Leave underscores instead of writing spaces.
        escape_parentheses: Write parentheses as ``\(`` and ``\)`` (what A1111's prompts want).
        text: What stands in the text file: tags, the caption (behind the trigger), or both.
    """

    trigger: str = "wood_elf"
    threshold: float = 0.28
    thresholds: Mapping[str, float] = field(default_factory=lambda: {"character": 0.85})
    mcut: tuple[str, ...] = ()
    mcut_floor: float = 0.15
    style: StyleRules = field(default_factory=StyleRules)
    weights: Mapping[str, WeightRule] = field(default_factory=dict)
    noise: NoiseRules = field(default_factory=NoiseRules)
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=_vocabularies)
    replace: Mapping[str, str] = field(default_factory=dict)
    remove: Names = ()
    max_tags: int = 80
    max_per_category: Mapping[str, int] = field(default_factory=lambda: {"character": 4})
    first: Names = ()
    caption_tags: Mapping[str, str] = field(default_factory=lambda: dict(CAPTION_TAGS))
    max_caption_tags: int = 10
    append: Names = ()
    keep_underscores: bool = False
    escape_parentheses: bool = False
    text: Literal["tags", "caption", "both"] = "tags"

    def __post_init__(self) -> None:
        for name, value in self._shares():
            if value is not None and not 0 <= value <= 1:
                raise ElfError(f"rules.{name}: {value} is not between 0 and 1")
        for key, vocabulary in self.vocabularies.items():
            if not -1 <= vocabulary.shift <= 1:
                raise ElfError(
                    f"rules.vocabularies.{key}.shift: {vocabulary.shift} is not between -1 and 1"
                )
        caps = {"max_tags": self.max_tags, "style.max_tags": self.style.max_tags}
        caps |= {"max_caption_tags": self.max_caption_tags}
        caps |= {f"max_per_category.{name}": cap for name, cap in self.max_per_category.items()}
        for name, cap in caps.items():
            if cap < 0:
                raise ElfError(f"rules.{name}: {cap} is negative; 0 keeps none")
        for key in ("thresholds", "max_per_category", "mcut"):
            for name in getattr(self, key):
                if name not in CATEGORIES.values():
                    known = ", ".join(CATEGORIES.values())
                    raise ElfError(f"rules.{key}: no category {name!r}; there are {known}")
        for name, tag in self._written():
            if "," in tag or "\n" in tag:
                raise ElfError(f"rules.{name}: {tag!r} must be one tag, without commas")

    def _shares(self) -> Iterator[tuple[str, float | None]]:
        yield "threshold", self.threshold
        yield "mcut_floor", self.mcut_floor
        yield from ((f"thresholds.{name}", value) for name, value in self.thresholds.items())
        yield "style.threshold", self.style.threshold
        yield "style.weight", self.style.weight
        yield "noise.threshold", self.noise.threshold
        yield from ((f"weights.{name}.weight", rule.weight) for name, rule in self.weights.items())

    def _written(self) -> Iterator[tuple[str, str]]:
        """Yield every tag that these rules write, with the name of its key."""
        yield "trigger", self.trigger
        yield from (("append", tag) for tag in self.append)
        yield from ((f"replace.{old}", new) for old, new in self.replace.items())
        yield from ((f"caption_tags.{word}", tag) for word, tag in self.caption_tags.items())
