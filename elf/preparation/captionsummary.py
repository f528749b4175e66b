"""Which captions a preparation has for training, in figures and in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elf.bases.chunks import CAPTION_TOKENS
from elf.preparation.encoding import Encoder
from elf.preparation.selecting import Selection


@dataclass(frozen=True)
class CaptionSummary:
    """What captions training has.

    Attributes:
        cached: How many texts have cached states, the empty one included; 0 if they are made live.
        size: What those take on the disk, bytes.
        variants: Captions that are drawn from for a picture, at most.
        drawn: What is drawn, in words; of one set alone, for several say it themselves.
        whole: How many captions pictures have, sentences that stand for them included.
        cut: How many of these are longer than the text encoder reads; None: it does not say.
        limit: How many tokens it reads; None: it does not say.
    """

    cached: int
    size: int = 0
    variants: int = 1
    drawn: str = ""
    whole: int = 0
    cut: int | None = None
    limit: int | None = None

    def lines(self) -> list[str]:
        """Return what is said of it."""
        drawn = f" ({self.drawn})" if self.drawn else ""
        if not self.cached:
            lines = [f"captions   live: encoded in each step, none is cached{drawn}"]
        else:
            up_to = "up to " if self.variants > 1 else ""
            lines = [
                f"captions   cached: {up_to}{self.variants} of each picture{drawn}, {self.cached} "
                f"texts in all, {self.size / 1e6:.1f} MB"
            ]
        if self.cut:
            lines.append(
                f"           {self.cut} of {self.whole} are longer than the text encoder reads: "
                "what stands at their ends is not learnt"
            )
            lines += self._way_out()
        return lines

    def _way_out(self) -> list[str]:
        if self.limit is None:
            return []
        more = " or ".join(str(each) for each in CAPTION_TOKENS if each > self.limit)
        remedy = f"set model.caption_tokens to {more}" if more else "shorten them"
        return [f"           (it reads {self.limit} tokens: {remedy}, or leave it at that)"]


def summarise_captions(
    selection: Selection, encoder: Encoder, tars: Sequence[Path] = ()
) -> CaptionSummary:
    """Return what captions there are.

    Args:
        selection: What is in the shards.
        encoder: The frozen models.
        tars: The shards.
    """
    captions = []
    for picture in selection.pictures:
        source = picture.source
        own = selection.sets[source.set].captions(source.caption, source.sentence, source.trigger)
        captions += [own.plain] + [own.drawn(None, sentence=True)] * own.either
    count: Callable[[list[str]], int] | None = getattr(encoder, "count_cut", None)
    sets = selection.sets
    return CaptionSummary(
        cached=len(selection.texts),
        size=sum(tar.stat().st_size for tar in tars if tar.name.startswith("captions-")),
        variants=max(each.caption_variants or 1 for each in sets),
        drawn=sets[0].drawn() if len(sets) == 1 else "",
        whole=len(captions),
        cut=None if count is None else count(captions),
        limit=getattr(encoder, "caption_tokens", None),
    )
