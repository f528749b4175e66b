"""The part of the configuration that decides what is in the shards."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from elf.preparation.captionoptions import KEYS, POOL, CaptionKind, CaptionOptions, TextStates
from elf.preparation.sets import PictureSet

PictureFormat = Literal["png", "webp", "jpg"]


@dataclass(frozen=True)
class Settings(CaptionOptions):
    """The part of the YAML's ``data`` that decides what is in the shards (paths aside).

    The options of captions are those of the one folder with plain keys; sets have their own.

    Attributes:
        resolution: Side of the square whose area each picture gets, px.
        bucket_step: Bucket sides are multiples of it, px.
        min_side: Shortest bucket side, px; half the resolution if not given.
        max_side: Longest bucket side, px; twice the resolution if not given.
        no_upscale: Whether no picture is enlarged; there is no shortest and longest side then.
        held_out: The share of pictures kept for validation, 0-1.
        caption: What a picture is trained with: its tags, its sentence, tags then sentence, or
            either of the two.
        trigger: The trigger word; captions are then cached without it too.
        picture_format: How resized pictures are stored.
        shard_size: At most about this many samples go into one shard.
        sets: Sets of pictures with their options; none if there is one folder with plain keys.
        text_states: Whether the text states of captions are cached, or made while training.
    """

    resolution: int = 512
    bucket_step: int = 64
    min_side: int | None = None
    max_side: int | None = None
    held_out: float = 0.05
    caption: CaptionKind = "tags"
    trigger: str | None = None
    picture_format: PictureFormat = "png"
    shard_size: int = 1000
    no_upscale: bool = False
    sets: tuple[PictureSet, ...] = ()
    text_states: TextStates = "cached"

    def all_sets(self, pictures: str = "", labels: str = "") -> tuple[PictureSet, ...]:
        """Return the sets, the one of the plain keys if there are no others.

        Args:
            pictures: The one folder of pictures.
            labels: The folder of its labels.
        """
        one = PictureSet(
            pictures, labels=labels, caption=self.caption, trigger=self.trigger, **self.given()
        )
        return self.sets or (one,)

    def record(self) -> dict[str, Any]:
        """Return what to write down.

        What came later than the first shards stands there only where it is set, so that folders
        from before stay what they are.
        """
        values = asdict(self) | {"sets": [self._stored(each) for each in self.sets]}
        later = {"no_upscale", "sets", "text_states", *KEYS}
        plain = asdict(Settings()) | {"sets": []}
        kept = {k: v for k, v in values.items() if k not in later or v != plain[k]}
        return {key: value for key, value in kept.items() if not self._only_drawn(key)}

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Settings":
        """Return the settings that were written down."""
        sets = tuple(PictureSet(**each) for each in record.get("sets", ()))
        return cls(**{**record, "sets": sets})

    def difference(self, other: "Settings") -> tuple[str, Any, Any] | None:
        """Return the first option (key, own value, other value) that gives other shards."""
        mine, theirs = self._options(), other._options()
        for key in {**mine, **theirs}:
            if mine.get(key) != theirs.get(key):
                return key, mine.get(key), theirs.get(key)
        return None

    def _options(self) -> dict[str, Any]:
        sets = f"{len(self.sets)} sets" if self.sets else None
        first = {"text_states": self.text_states, "sets": sets}  # they decide what else counts
        values = {**first, **asdict(self), **first}
        options = {key: value for key, value in values.items() if not self._only_drawn(key)}
        for number, each in enumerate(self.sets):
            stored = self._stored(each).items()
            options |= {f"sets[{number}].{key}": value for key, value in stored}
        if self.sets:  # these are then in the sets
            del options["caption"], options["trigger"]
        return options

    def _stored(self, each: PictureSet) -> dict[str, Any]:
        return {k: v for k, v in each.stored().items() if not self._only_drawn(k)}

    def _only_drawn(self, key: str) -> bool:
        """Whether an option only changes what is drawn from the shards, not what is in them."""
        return key == "sentence_share" or (self.text_states == "live" and key in POOL)
