"""From scores and a caption to kept tags: the rules as a pure function of one picture's outputs."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt16
from numpy.typing import NDArray

from elf.taggers.names import NameSet, list_name, nearest, unmatched
from elf.taggers.outputs import UNITS
from elf.taggers.rules import Rules
from elf.taggers.scores import Scores
from elf.taggers.tags import TagList, display

_NOT = re.compile(r"\b(no|not|without|neither|nor)(\s+\w+)?\s*$")


@dataclass
class Selection:
    """What became of one picture's scores.

    Attributes:
        tags: The label, as written, in order.
        rating: The most probable rating's name; empty if the list has none.
        scores: The raw score of each written tag that the tagger gave.
        dropped: The rule that dropped a tag, for tags whose raw score reached ``threshold``
            or their category's cutoff.
        notes: What happened to a written tag beyond its cutoff, where anything did.
        sources: The name in the tagger's list of each written tag that it gave.
    """

    tags: list[str] = field(default_factory=list)
    rating: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


class _Written(NamedTuple):
    """What becomes of a tag of the list that is kept, whatever the picture.

    Attributes:
        name: In the list.
        plain: What is written, as it stands in a list.
        text: What is written, as it stands in a label.
        notes: What the rules did to it.
        removed: Whether it is written at all.
        caps: The names of the caps that it counts against, other than that on all tags.
    """

    name: str
    plain: str
    text: str
    notes: list[str]
    removed: bool
    caps: tuple[str, ...]


class Selector:
    """The rules made ready for one tag list: what does not depend on a picture is done once.

    Attributes:
        version: What stands for these rules in the manifest.
    """

    def __init__(self, tags: TagList, rules: Rules) -> None:
        self.tags = tags
        self.rules = rules
        self.version = version(rules)
        names = tags.names
        style = NameSet(
            [*rules.style.tags, *(f"{prefix}*" for prefix in rules.style.prefixes)],
            rules.style.exceptions,
        )
        self._style = frozenset(style.among(names))
        drawn = sorted(self._style)
        self._weight = np.ones(len(names))
        self._weight[drawn] = rules.style.weight
        self._weighted_by: dict[int, list[str]] = {index: ["style"] for index in drawn}
        for key, rule in rules.weights.items():
            for index in self._matching(rule.tags, rule.exceptions):
                self._weight[index] *= rule.weight
                self._weighted_by.setdefault(index, []).append(key)
        usual = {name: rules.thresholds.get(name, rules.threshold) for name in set(tags.categories)}
        cutoffs = [usual[name] for name in tags.categories]
        self._cutoff = np.array(cutoffs)
        self._cut_by: dict[int, list[str]] = {}
        if rules.style.threshold is not None:
            self._cutoff[drawn] = rules.style.threshold
        for index in self._matching(rules.noise.tags, rules.noise.exceptions):
            if rules.noise.threshold > self._cutoff[index]:
                self._cutoff[index] = rules.noise.threshold
                self._cut_by[index] = ["noise"]
        for key, vocabulary in rules.vocabularies.items():
            for index in self._matching(vocabulary.tags, vocabulary.exceptions):
                self._cutoff[index] += vocabulary.shift
                self._cut_by.setdefault(index, []).append(f"{key} {vocabulary.shift:+.4g}")
        self._cutoff = np.clip(np.round(self._cutoff, 4), 1 / UNITS, 1.0)
        rating = np.array([name == "rating" for name in tags.categories])
        self._ratings = np.flatnonzero(rating)
        self._cutoff[rating] = np.inf  # a rating is no tag
        self._near = np.where(rating, np.inf, np.minimum(cutoffs, rules.threshold))
        self._mcut = {name: self._of_category(name) for name in rules.mcut}
        self._least = self._least_units()
        self._lowest = int(self._least.min())
        self._known: dict[int, _Written] = {}
        self._caps = {f"{name} tags": cap for name, cap in rules.max_per_category.items()}
        self._caps["style tags"] = rules.style.max_tags
        self._replace = [(NameSet([old]), new) for old, new in rules.replace.items()]
        self._remove = NameSet(rules.remove)
        self._first = [NameSet([name]) for name in rules.first]
        self._trigger = [rules.trigger] * bool(rules.trigger)
        self._ends = list(dict.fromkeys(self._text(list_name(tag)) for tag in rules.append))
        self._words = [
            (word.lower(), re.compile(rf"(?<![\w-]){re.escape(word.lower())}(?![\w-])"), tag)
            for word, tag in rules.caption_tags.items()
        ]

    def _matching(self, names: tuple[str, ...], exceptions: tuple[str, ...]) -> list[int]:
        return NameSet(names, exceptions).among(self.tags.names)

    def _of_category(self, category: str) -> NDArray[np.intp]:
        return np.flatnonzero(np.array([name == category for name in self.tags.categories]))

    def _least_units(self) -> UInt16[np.ndarray, " tags"]:
        """Return below which score, in units, a tag is neither kept nor worth a note.

        Few of a list's ten thousand reach it: the rules look at no other. A unit of slack stands
        for all roundings.
        """
        kept = np.full(len(self._cutoff), np.inf)
        np.divide(self._cutoff, self._weight, out=kept, where=self._weight > 0)
        least = np.floor(np.minimum(kept, self._near) * UNITS) - 1
        for members in self._mcut.values():  # their cutoffs change with the picture
            least[members] = 0
        units: NDArray[np.uint16] = np.clip(least, 0, np.iinfo(np.uint16).max).astype(np.uint16)
        return units

    def unmatched(self) -> list[str]:
        """Return a line for each name in the rules, other than the defaults, that fits no tag."""
        rules, usual = self.rules, Rules()
        known = {*self.tags.names, *map(list_name, rules.replace.values())}
        known |= set(map(list_name, rules.caption_tags.values()))
        places = {
            "style.tags": (rules.style.tags, usual.style.tags),
            "noise.tags": (rules.noise.tags, usual.noise.tags),
            "replace": (tuple(rules.replace), ()),
            "remove": (rules.remove, ()),
            "first": (rules.first, ()),
            **{f"weights.{key}": (rule.tags, ()) for key, rule in rules.weights.items()},
            **{
                f"vocabularies.{key}": (rule.tags, usual.vocabularies[key].tags)
                if key in usual.vocabularies
                else (rule.tags, ())
                for key, rule in rules.vocabularies.items()
            },
        }
        return [
            f"rules.{place}: the tagger has no tag {name!r}{nearest(list_name(name), known)}"
            for place, (names, defaults) in places.items()
            for name in unmatched([name for name in names if name not in defaults], known)
        ]

    def __call__(self, scores: Scores, caption: str | None = None) -> Selection:
        """Return the label that the rules make of one picture's scores and its caption."""
        result = Selection()
        if len(self._ratings):
            result.rating = self.tags.names[scores.largest(self._ratings)]
        able, units = scores.reaching(self._least, self._lowest)
        raw = units / UNITS
        weighted = (raw * self._weight[able]).round(4)
        cutoff = self._cutoff[able]
        if self._mcut:
            cutoff = cutoff + self._mcut_shift(scores.dense / UNITS)[able]
        kept = weighted >= cutoff
        for at in ((raw >= self._near[able]) & ~kept).nonzero()[0].tolist():
            index = int(able[at])
            name = self.tags.names[index]
            result.dropped[name] = self._below(index, raw[at], weighted[at], cutoff[at])
        candidates = kept.nonzero()[0]
        # stable: equal scores stay in the list's order
        order = candidates[(-weighted[candidates]).argsort(kind="stable")]
        self._write(result, able[order].tolist(), raw[order].tolist(), caption)
        return result

    def _mcut_shift(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        shift = np.zeros(len(raw))
        for category, members in self._mcut.items():
            usual = self.rules.thresholds.get(category, self.rules.threshold)
            shift[members] = max(mcut(raw[members]), self.rules.mcut_floor) - usual
        return np.round(shift, 4)

    def _write(
        self, result: Selection, kept: list[int], scores: list[float], caption: str | None
    ) -> None:
        """Write the label of the kept tags, given by number and raw score, in order."""
        rules = self.rules
        spoken = self._from_caption(caption)
        room = max(0, rules.max_tags - len(self._trigger) - len(self._ends))
        spoken = dict(list(spoken.items())[: min(room, rules.max_caption_tags)])
        taken = set(map(list_name, (*self._trigger, *self._ends)))
        places = taken | set(map(list_name, spoken))
        room -= len(spoken)
        left = dict(self._caps)
        full = {name for name, cap in left.items() if cap <= 0}
        body: list[str] = []
        for index, score in zip(kept, scores, strict=True):
            written = self._known.get(index) or self._written(index)
            name, plain, text, notes, removed, caps = written
            has_place = plain in places
            if removed:
                result.dropped[name] = "remove"
            elif plain in taken:
                result.dropped[name] = "written already"
            elif room <= 0 and not has_place:
                result.dropped[name] = f"cap of {rules.max_tags} tags"
            elif full and (cap := next((cap for cap in caps if cap in full), None)):
                result.dropped[name] = f"cap of {self._caps[cap]} {cap}"
            else:
                body.append(text)
                taken.add(plain)
                room -= not has_place
                for cap in caps:
                    left[cap] -= 1
                    if not left[cap]:
                        full.add(cap)
                result.scores[text] = score
                result.sources[text] = name
                if notes:
                    result.notes[text] = list(notes)
        first = [text for rule in self._first for text in body if list_name(text) in rule]
        first = list(dict.fromkeys(first))
        for text in first:
            result.notes.setdefault(text, []).append("first")
        for tag, word in spoken.items():
            if list_name(tag) not in taken and list_name(tag) not in self._remove:
                body.append(tag)
                taken.add(list_name(tag))
                result.notes[tag] = [f"the caption says {word!r}"]
        rest = [text for text in body if text not in first] if first else body
        result.tags = [*self._trigger, *first, *rest, *self._ends][: rules.max_tags]
        result.notes |= {text: ["append"] for text in self._ends}
        result.notes |= {text: ["trigger"] for text in self._trigger}

    def _written(self, index: int) -> _Written:
        name, category = self.tags.names[index], self.tags.categories[index]
        written, notes = self._replaced(name)
        plain = list_name(written)
        caps = [f"{category} tags"] if category in self.rules.max_per_category else []
        caps += ["style tags"] if index in self._style else []
        self._known[index] = _Written(
            name, plain, self._text(plain), notes, plain in self._remove, tuple(caps)
        )
        return self._known[index]

    def _replaced(self, name: str) -> tuple[str, list[str]]:
        notes = []
        written = name
        for old, new in self._replace:
            if list_name(written) in old and written != new:
                notes.append(f"replace {written} by {new}")
                written = new
        return written, notes

    def _from_caption(self, caption: str | None) -> dict[str, str]:
        """Return the tags that a caption's words give, and the word, in the caption's order."""
        if not caption or not self._words:
            return {}
        text = caption.lower()
        found: list[tuple[int, str, str]] = []
        for word, pattern, tag in self._words:
            if word not in text:  # quicker than its pattern, and true of nearly all
                continue
            for match in pattern.finditer(text):
                if not _NOT.search(text[: match.start()]):
                    found.append((match.start(), self._text(list_name(tag)), match[0]))
                    break
        spoken: dict[str, str] = {}
        for _, tag, word in sorted(found):
            spoken.setdefault(tag, word)
        return spoken

    def _text(self, name: str) -> str:
        return display(name, self.rules.keep_underscores, self.rules.escape_parentheses)

    def _below(self, index: int, raw: float, weighted: float, cutoff: float) -> str:
        by = " ".join(self._weighted_by.get(index, [])) or self.tags.categories[index]
        if self._cut_by.get(index):
            by = f"{by}, {', '.join(self._cut_by[index])}"
        if self.rules.mcut and self.tags.categories[index] in self.rules.mcut:
            by = f"{by}, mcut"
        product = f" × {self._weight[index]:.4g} = {weighted:.4g}" if weighted != raw else ""
        return f"{by}: {raw:.4g}{product} is below {cutoff:.4g}"

    def why(self, name: str) -> str:
        """Return what decides over a tag of the list: its factor and its cutoff, by their rules."""
        index = self.tags.names.index(name)
        weight = ""
        if self._weighted_by.get(index):
            weight = f"{' '.join(self._weighted_by[index])} × {self._weight[index]:.4g}, "
        changed = self._cut_by.get(index, [])
        by = f" ({', '.join(changed)})" if changed else ""
        mine = self.tags.categories[index]
        return f"{weight}{mine}, cutoff {self._cutoff[index]:.4g}{by}"


def mcut(scores: NDArray[np.float64]) -> float:
    """Return the middle of the largest gap between scores in order (Largeron et al. 2012)."""
    ordered = np.sort(scores)[::-1]
    if len(ordered) < 2:
        return 0.0
    widest = int(np.argmax(ordered[:-1] - ordered[1:]))
    return float(ordered[widest] + ordered[widest + 1]) / 2


def version(rules: Rules) -> str:
    """Return what stands for rules in the manifest: the beginning of a hash of all their values."""
    text = json.dumps(dataclasses.asdict(rules), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
