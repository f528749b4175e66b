"""From scores to kept tags: thresholds, weights, caps, the trigger. Pure functions.

In the order in which they act: the weight of style tags, the thresholds, the order by weighted
score, the caps (of a category, of style tags, of all), the trigger in front.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from elf.errors import ElfError
from elf.taggers.tags import CATEGORIES, TagList, display

DECIMALS = 4
"""Scores are compared to this many decimals: what a batch's size changes lies far below."""

STYLE_TAGS = (
    *("4koma", "2koma", "3koma", "comic", "silent_comic", "sketch", "monochrome", "greyscale"),
    *("chibi", "chibi_inset", "chibi_only", "traditional_media", "parody", "style_parody"),
    *("retro_artstyle", "official_style", "flat_color", "halftone", "screentones"),
    *("western_comics_(style)", "1970s_(style)", "1980s_(style)", "1990s_(style)"),
)
"""Tags of drawn styles that the prefixes do not reach, as they stand in the real lists."""


@dataclass(frozen=True)
class StyleRules:
    """What holds down the tags of drawn styles, for labels of realistic pictures.

    Args:
        prefixes: A tag whose name starts so is a style tag.
        tags: Further style tags by their full names.
        exceptions: Names that are none although a prefix fits (a bone's shape).
        weight: A style tag's score is multiplied by it (0.65 is 35 % down).
        threshold: Cutoff of a style tag's weighted score; none takes its category's.
        max_tags: Most style tags in a label.
    """

    prefixes: tuple[str, ...] = ("anime", "cartoon", "lineart")
    tags: tuple[str, ...] = STYLE_TAGS
    exceptions: tuple[str, ...] = ("cartoon_bone",)
    weight: float = 0.65
    threshold: float | None = None
    max_tags: int = 5

    def match(self, name: str) -> bool:
        """Whether a tag, by its name in the list, is a style tag."""
        if name in self.exceptions:
            return False
        return name in self.tags or name.startswith(self.prefixes)


@dataclass(frozen=True)
class Rules:
    """How labels are made of scores.

    Args:
        trigger: The word that stands first in every label as it is written here; empty for none.
        threshold: Cutoff of a tag's (weighted) score.
        thresholds: Cutoffs that differ, by category.
        max_tags: Most tags in a label, the trigger included.
        max_per_category: Most tags of a category.
        keep_underscores: Leave underscores instead of writing spaces.
        escape_parentheses: Write parentheses with a backslash (what A1111's prompts want).
        style: The rules for tags of drawn styles.
    """

    trigger: str = "wood_elf"
    threshold: float = 0.28
    thresholds: Mapping[str, float] = field(default_factory=lambda: {"character": 0.85})
    max_tags: int = 80
    max_per_category: Mapping[str, int] = field(default_factory=lambda: {"character": 4})
    keep_underscores: bool = False
    escape_parentheses: bool = False
    style: StyleRules = field(default_factory=StyleRules)

    def __post_init__(self) -> None:
        cutoffs: dict[str, float | None] = {"threshold": self.threshold}
        cutoffs |= {f"thresholds.{name}": value for name, value in self.thresholds.items()}
        cutoffs |= {"style.threshold": self.style.threshold, "style.weight": self.style.weight}
        for name, value in cutoffs.items():
            if value is not None and not 0 <= value <= 1:
                raise ElfError(f"rules.{name}: {value} is not between 0 and 1")
        caps = {"max_tags": self.max_tags, "style.max_tags": self.style.max_tags}
        caps |= {f"max_per_category.{name}": cap for name, cap in self.max_per_category.items()}
        for name, cap in caps.items():
            if cap < 0:
                raise ElfError(f"rules.{name}: {cap} is negative; 0 keeps none")
        for key in ("thresholds", "max_per_category"):
            for name in getattr(self, key):
                if name not in CATEGORIES.values():
                    known = ", ".join(CATEGORIES.values())
                    raise ElfError(f"rules.{key}: no category {name!r}; there are {known}")
        if "," in self.trigger or "\n" in self.trigger:
            raise ElfError(f"rules.trigger: {self.trigger!r} must be one tag, without commas")


@dataclass(frozen=True)
class Selection:
    """What became of one picture's scores.

    Attributes:
        tags: The label, as written, in order.
        rating: The most probable rating's name; empty if the list has none.
        dropped: The rule that dropped a tag, for tags whose raw score reached the threshold.
    """

    tags: list[str]
    rating: str
    dropped: dict[str, str]


class Selector:
    """The rules made ready for one tag list: what does not depend on a picture is done once."""

    def __init__(self, tags: TagList, rules: Rules) -> None:
        self.tags = tags
        self.rules = rules
        style = rules.style
        self._style = np.array([style.match(name) for name in tags.names])
        self._weight = np.where(self._style, style.weight, 1.0)
        cutoffs = [rules.thresholds.get(name, rules.threshold) for name in tags.categories]
        self._threshold = np.array(cutoffs)
        if style.threshold is not None:
            self._threshold[self._style] = style.threshold
        self._is_rating = np.array([name == "rating" for name in tags.categories])
        self._ratings = np.flatnonzero(self._is_rating)

    def __call__(self, scores: Float32[np.ndarray, "tags"]) -> Selection:  # noqa: F821
        """Return the label that the rules make of one picture's scores."""
        rules = self.rules
        raw = np.round(scores.astype(np.float64), DECIMALS)
        weighted = np.round(raw * self._weight, DECIMALS)
        rating = ""
        if len(self._ratings):
            rating = self.tags.names[int(self._ratings[np.argmax(raw[self._ratings])])]

        reached = ~self._is_rating & (raw >= rules.threshold)
        kept = ~self._is_rating & (weighted >= self._threshold)
        dropped = {
            self.tags.names[index]: self._below(index, raw[index], weighted[index])
            for index in np.flatnonzero(reached & ~kept).tolist()
        }
        candidates = np.flatnonzero(kept)
        # stable: equal scores stay in the list's order
        order: list[int] = candidates[np.argsort(-weighted[candidates], kind="stable")].tolist()

        label = [rules.trigger] if rules.trigger else []
        label = label[: rules.max_tags]
        written = set(label) | {display(tag) for tag in label}
        counts: Counter[str] = Counter()
        for index in order:
            name = self.tags.names[index]
            text = display(name, rules.keep_underscores, rules.escape_parentheses)
            if text in written:
                dropped[name] = "written already"
            elif reason := self._cap(index, len(label), counts):
                dropped[name] = reason
            else:
                label.append(text)
                written.add(text)
                counts[self.tags.categories[index]] += 1
                counts["style"] += bool(self._style[index])
        return Selection(label, rating, dropped)

    def _below(self, index: int, raw: float, weighted: float) -> str:
        cutoff = self._threshold[index]
        if self._style[index]:
            weight = self.rules.style.weight
            return f"style: {raw:.4g} × {weight:.4g} = {weighted:.4g} is below {cutoff:.4g}"
        return f"{self.tags.categories[index]}: {raw:.4g} is below {cutoff:.4g}"

    def _cap(self, index: int, length: int, counts: Counter[str]) -> str:
        """Return the cap that a further tag would break, or an empty string."""
        rules, category = self.rules, self.tags.categories[index]
        if length >= rules.max_tags:
            return f"cap of {rules.max_tags} tags"
        cap = rules.max_per_category.get(category)
        if cap is not None and counts[category] >= cap:
            return f"cap of {cap} {category} tags"
        if self._style[index] and counts["style"] >= rules.style.max_tags:
            return f"cap of {rules.style.max_tags} style tags"
        return ""
