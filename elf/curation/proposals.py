"""What to keep and what to drop, and why: from facts, likenesses and decisions. Pure functions.

The order of pictures decides who leads a group: first what has no flag that drops it; then the
:func:`score`; bytes; id. What a person keeps leads in any case, so that it stays, but no better
picture is dropped for it; what a person dropped comes last, so that nothing is dropped for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from elf.curation.duplicates import group
from elf.curation.facts import Facts
from elf.curation.likeness import Likeness
from elf.curation.policy import Policy
from elf.curation.quality import flags, usual_sizes
from elf.curation.scan import Picture
from elf.curation.verdicts import Verdict

BLURRED, LOSSLESS = 1.5, 0.5
"""What blur of 1, and fidelity of 100, count beside the logarithm of the pixels."""


@dataclass(frozen=True)
class Entry:
    """A picture and what is proposed.

    Attributes:
        picture: The picture.
        flags: Of its quality.
        leader: The id of its group's best picture; its own if it is that or alone.
        alike: In what it is like that; empty for the best one.
        reason: Why it is proposed to be dropped; none if it is to stay.
        verdict: What is decided, if anything is.
    """

    picture: Picture
    flags: tuple[str, ...]
    leader: str
    alike: str
    reason: str | None
    verdict: Verdict | None

    @property
    def keep(self) -> bool:
        """Whether it stays, by a person's decision or else by the proposal."""
        if self.verdict is not None and self.verdict.by_person:
            return self.verdict.keep
        return self.reason is None

    @property
    def proposed_drop(self) -> bool:
        """Whether it is proposed to be dropped, and no person decided."""
        return self.reason is not None and not (self.verdict and self.verdict.by_person)


def propose(
    pictures: Sequence[Picture],
    verdicts: dict[str, Verdict],
    policy: Policy,
    embeddings: Float32[np.ndarray, "n features"] | None = None,
) -> list[Entry]:
    """Return what is proposed for each picture, in the order of the pictures.

    Args:
        pictures: No two of the same content.
        verdicts: Decisions in force, by id.
        policy: What counts.
        embeddings: Unit vectors, zeros for a picture that has none.
    """
    sizes = [(picture.facts.width, picture.facts.height) for picture in pictures]
    usual = usual_sizes(sizes, policy.thresholds.odd_size)
    found = [
        flags(picture.facts.figures, size, usual, policy.resolution, policy.thresholds)
        for picture, size in zip(pictures, sizes, strict=True)
    ]
    persons = {key: verdict.keep for key, verdict in verdicts.items() if verdict.by_person}
    ranks = [
        rank(picture, bool(set(own) & set(policy.drop)), persons.get(picture.id))
        for picture, own in zip(pictures, found, strict=True)
    ]
    order = sorted(range(len(pictures)), key=lambda row: ranks[row])
    ordered = [pictures[row] for row in order]
    likeness = Likeness(ordered, policy, None if embeddings is None else embeddings[order])
    leads = np.array([persons.get(picture.id) is True for picture in ordered], np.bool_)
    leaders = group(likeness.spaces, leads)
    alike = likeness.in_words(leaders)
    places = {row: place for place, row in enumerate(order)}
    entries = []
    for row, (picture, own) in enumerate(zip(pictures, found, strict=True)):
        place = places[row]
        leader = ordered[leaders[place]]
        reasons = [
            f"{flag.replace('_', ' ')}: {_value(picture, flag)}"
            for flag in own
            if flag in policy.drop
        ]
        if leader is not picture:
            reasons.insert(0, f"like {leader.paths[0]} ({alike[place]})")
        entries.append(
            Entry(
                picture=picture,
                flags=tuple(own),
                leader=leader.id,
                alike=alike[place],
                reason="; ".join(reasons) or None,
                verdict=verdicts.get(picture.id),
            )
        )
    return entries


def rank(picture: Picture, flagged: bool, kept: bool | None) -> tuple[object, ...]:
    """Return what pictures are sorted by, the best first.

    Args:
        picture: The picture.
        flagged: Whether a flag drops it.
        kept: What a person decided about it.
    """
    place = {True: 0, None: int(flagged), False: 2}[kept]
    return place, -score(picture.facts), -picture.facts.size, picture.sha256


def score(facts: Facts) -> float:
    """Return how good a picture is: pixels count by their logarithm, blur and losses against it.

    Twice the pixels make up for 0.46 of blur. A JPEG of quality 80 has to have a tenth more pixels
    than a lossless copy. Even borders do not count.
    """
    seen = math.log(facts.pixels) - BLURRED * facts.figures.blur
    return round(seen + LOSSLESS * facts.fidelity / 100, 4)


def _value(picture: Picture, flag: str) -> str:
    """Return in words what led to a flag."""
    facts = picture.facts
    figures = facts.figures
    return {
        "blurry": f"{figures.blur:.2f}",
        "low_information": f"{figures.entropy:.1f} bits",
        "dark": f"below {figures.brightest:.2f}",
        "light": f"above {figures.darkest:.2f}",
        "grayscale": f"{figures.colour:.3f}",
        "odd_aspect_ratio": f"{facts.width} × {facts.height}",
        "odd_size": f"{facts.width} × {facts.height}",
        "small": f"{facts.width} × {facts.height}",
    }[flag]
