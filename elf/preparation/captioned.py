"""Pictures of a folder, with captions beside them: the layout that other trainers read."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from elf.errors import ElfError
from elf.images import BadImage, picture_id
from elf.preparation.labelled import one_line
from elf.preparation.masks import Masks
from elf.preparation.sets import PictureSet
from elf.preparation.sources import Dropped, Found, Location, Source, Unusable, without_twins
from elf.preparation.trigger import has_trigger

CAPTIONS = (".txt", ".caption")  # suffixes of captions; the first that is there counts


def read_captioned(each: PictureSet, number: int, threads: ThreadPoolExecutor) -> Found:
    """Return the pictures of a folder, sorted by id, and what is left out already here.

    Args:
        each: The set.
        number: Of the set.
        threads: Read the pictures.

    Raises:
        ElfError: If there is no such folder, or no picture in it.
    """
    root = Path(each.pictures or "")
    if not root.is_dir():
        raise ElfError(
            f"data.sets[{number}].pictures: no folder {root}; give one that is there, or drop "
            "the set"
        )
    masks = Masks(each, number)
    if not masks.pictures:
        raise ElfError(
            f"data.sets[{number}].pictures: no pictures in {root}; put some there, or drop the set"
        )

    def look(name: str) -> Source | Dropped:
        path = root / name
        try:
            texts = (path.with_suffix(suffix) for suffix in CAPTIONS)
            beside = next((text for text in texts if text.is_file()), None)
            text = one_line(Location(beside).read(), beside.name) if beside else ""
            caption = own_caption(text, each)
            location = Location(path)
            key = picture_id(location.read())
            return Source(key, name, caption, location, number, masks.of(name, key))
        except (BadImage, Unusable) as error:
            return Dropped(name, str(error), number)

    results = threads.map(look, masks.pictures)
    bar = tqdm(results, "captions", len(masks.pictures), unit="picture", disable=None)
    found, dropped = without_twins(bar)
    masks.require_use(found, number)
    return found, dropped


def own_caption(text: str, each: PictureSet) -> str:
    """Return the caption of a picture that has this text, with the set's trigger in it.

    Raises:
        Unusable: If there is neither a text nor a default caption.
    """
    text = text or " ".join((each.default_caption or "").split())
    if not text:
        raise Unusable("no caption beside it")
    if each.trigger and not has_trigger(text, each.trigger):
        return f"{each.trigger}, {text}"
    return text
