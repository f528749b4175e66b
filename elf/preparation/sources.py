"""Pictures to train on: where each lies, what it is called, and its caption."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elf.errors import ElfError
from elf.images import BadImage, picture_id


class Unusable(ValueError):
    """A picture that cannot be trained on, with the reason in one line."""


@dataclass(frozen=True)
class Location:
    """Where some bytes lie: in a file, all of it or a part (a member of a tar)."""

    file: Path
    start: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            BadImage: If they are not there any more.
        """
        try:
            with open(self.file, "rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        except (OSError, ValueError) as error:  # no file's name holds a NUL or half a character
            why = getattr(error, "strerror", None) or "no name of a file"
            raise BadImage(f"unreadable ({why})") from None
        if self.size >= 0 and len(data) != self.size:
            raise BadImage(f"unreadable ({self.file} was cut)")
        return data


@dataclass(frozen=True)
class Mask:
    """Where the mask of a picture is: a file of its own, or the picture's if it is its alpha."""

    path: str
    location: Location
    alpha: bool = False


@dataclass(frozen=True)
class Source:
    """One picture with its caption.

    Attributes:
        id: Its content id.
        path: Its path below the set's folder; or the tar and the key in it.
        caption: One line.
        location: Where its bytes are.
        set: The number of its set.
        mask: Its mask; one by alpha is there only if the picture has such a channel.
        sentence: The sentence that is in the caption, or that may stand for it; one line.
        trigger: The trigger that its label was made with.
    """

    id: str
    path: str
    caption: str
    location: Location
    set: int = 0
    mask: Mask | None = None
    sentence: str = ""
    trigger: str = ""


@dataclass(frozen=True)
class Dropped:
    """A picture that is left out, and why."""

    path: str
    reason: str
    set: int = 0


Found = tuple[list[Source], list[Dropped]]


def load(source: Source) -> bytes:
    """Return the bytes of a picture.

    Raises:
        BadImage: If they are gone, or are no longer the picture that was labelled.
    """
    data = source.location.read()
    if picture_id(data) != source.id:
        raise BadImage("changed since it was labelled: run `elf predict` again")
    return data


def without_twins(results: Iterable[Source | Dropped]) -> Found:
    """Return sources sorted by id, the first of each, and what was dropped."""
    sources: dict[str, Source] = {}
    dropped = []
    for result in results:
        if isinstance(result, Source) and sources.setdefault(result.id, result) is not result:
            result = Dropped(result.path, "the same picture twice", result.set)
        if isinstance(result, Dropped):
            dropped.append(result)
    return [sources[name] for name in sorted(sources)], dropped


def refuse_shared(sources: Iterable[Source]) -> None:
    """Refuse pictures that stand in two sets: which caption, and how often, would be a guess.

    Raises:
        ElfError: If there is one, with both sets and paths.
    """
    first: dict[str, Source] = {}
    shared = [
        (before, source)
        for source in sources
        if (before := first.setdefault(source.id, source)) is not source
    ]
    if shared:
        one, two = shared[0]
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise ElfError(
            f"data.sets[{one.set}] and data.sets[{two.set}] hold the same picture, {one.path} and "
            f"{two.path}{more}: take it out of one of them; `repeats` makes a set count more"
        )
