"""What there is to train on: labelled pictures and their captions, and pictures made to fit."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image

from elf.buckets import Placement, Size
from elf.errors import ElfError
from elf.files import read_log
from elf.images import BadImage, LabelledPictures, decode, picture_id

CaptionKind = Literal["tags", "sentence", "both"]
PictureFormat = Literal["png", "webp", "jpg"]

# How pictures that had to be resized are stored; png and webp without loss.
_SAVE: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 4},
    "webp": {"format": "WEBP", "lossless": True},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


@dataclass(frozen=True)
class Settings:
    """The part of the YAML's ``data`` that decides what is in the shards (paths aside).

    Attributes:
        resolution: Side of the square whose area each picture gets, px.
        bucket_step: Bucket sides are multiples of it, px.
        min_side: Shortest bucket side, px; half the resolution if not given.
        max_side: Longest bucket side, px; twice the resolution if not given.
        held_out: The share of pictures kept for validation, 0-1.
        caption: What a picture is trained with: its tags, its sentence, or tags then sentence.
        trigger: The trigger word; captions are then cached without it too.
        picture_format: How resized pictures are stored.
        shard_size: At most about this many samples go into one shard.
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


@dataclass(frozen=True)
class Source:
    """One labelled picture: its id, its path below the pictures' folder, and its caption."""

    id: str
    path: str
    caption: str


@dataclass(frozen=True)
class Dropped:
    """A picture that is left out, and why."""

    path: str
    reason: str


def read_sources(
    pictures: Path, labels: Path, caption: CaptionKind
) -> tuple[list[Source], list[Dropped]]:
    """Return the labelled pictures, sorted by id, and what is left out already here.

    Raises:
        ElfError: If nothing is labelled, or the manifest is damaged before its last line.
    """
    manifest = labels / "manifest.jsonl"
    remedy = "run `elf predict` on the pictures first"
    if not manifest.exists():
        raise ElfError(f"{manifest} is missing: {remedy}")
    records = read_log(manifest)
    if not records:
        raise ElfError(f"{manifest} is empty, so nothing is labelled: {remedy}")
    present = LabelledPictures(pictures)
    sources: dict[str, Source] = {}
    dropped = []
    for number, record in enumerate(records, 1):
        name, path = record.get("id"), record.get("path")
        if not isinstance(name, str) or not isinstance(path, str) or not _is_id(name):
            raise ElfError(f"{manifest}, line {number}: no id or no path; delete that line")
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            dropped.append(Dropped(path, "its path leads out of the pictures' folder"))
            continue
        text = _caption(labels / f"{name}.txt", record, caption)
        if text:
            sources[name] = Source(name, present.path(path, name), text)
        else:
            dropped.append(Dropped(path, f"no caption of kind {caption!r}"))
    labelled = {str(record["path"]) for record in records}
    labelled |= {source.path for source in sources.values()}
    ids = {str(record["id"]) for record in records}
    dropped += list(_unlabelled(pictures, present.names, labelled, ids))
    return [sources[name] for name in sorted(sources)], dropped


def _is_id(name: str) -> bool:
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def _caption(label: Path, record: dict[str, Any], kind: CaptionKind) -> str:
    """Return one line of text; the label file counts, for that is what a reviewer edits."""
    tags = " ".join(label.read_text("utf-8").split()) if label.exists() else ""
    sentence = " ".join(str(record.get("caption") or "").split())
    if kind == "both" and sentence and sentence in tags:
        return tags  # the rules wrote both into the label already
    wanted = {"tags": [tags], "sentence": [sentence], "both": [tags, sentence]}[kind]
    return ", ".join(wanted) if all(wanted) else ""


def _unlabelled(
    pictures: Path, present: list[str], labelled: set[str], ids: set[str]
) -> Iterable[Dropped]:
    for name in present:
        if name not in labelled:
            known = picture_id((pictures / name).read_bytes()) in ids
            yield Dropped(name, "the same picture twice" if known else "not labelled")


def load(pictures: Path, source: Source) -> bytes:
    """Return the bytes of a labelled picture.

    Raises:
        BadImage: If the file is gone, or is no longer the picture that was labelled.
    """
    try:
        data = (pictures / source.path).read_bytes()
    except OSError as error:
        raise BadImage(f"unreadable ({error.strerror})") from None
    if picture_id(data) != source.id:
        raise BadImage("changed since it was labelled: run `elf predict` again")
    return data


def render(data: bytes, placed: Placement, picture_format: PictureFormat) -> tuple[str, bytes]:
    """Return a picture at its bucket's size as (suffix, bytes).

    A picture that has the size already is passed through byte for byte.

    Raises:
        BadImage: If it cannot be decoded.
    """
    image = decode(data)
    if image.size == placed.bucket and (suffix := _stored_as(data, placed.bucket)):
        return suffix, data
    buffer = io.BytesIO()
    cover(image, placed).save(buffer, **_SAVE[picture_format])
    return picture_format, buffer.getvalue()


def cover(image: Image.Image, placed: Placement) -> Image.Image:
    """Resize a picture to cover its bucket and crop it, in one step."""
    # The crop as a box of the source, so that a 1 × 4000 picture never becomes 256 × 1,024,000.
    scale = [new / old for new, old in zip(placed.resized, image.size, strict=True)]
    left, top = (edge / factor for edge, factor in zip(placed.crop, scale, strict=True))
    right, bottom = (
        min(old, start + side / factor)
        for old, start, side, factor in zip(
            image.size, (left, top), placed.bucket, scale, strict=True
        )
    )
    return image.resize(placed.bucket, Image.Resampling.LANCZOS, box=(left, top, right, bottom))


def _stored_as(data: bytes, size: Size) -> str | None:
    """Return the suffix of a picture that any reader sees as ``decode`` does, else None."""
    with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"]) as image:
        plain = image.mode == "RGB" and not image.has_transparency_data
        upright = image.getexif().get(0x0112, 1) == 1  # orientation
        still = getattr(image, "n_frames", 1) == 1
        if plain and upright and still and image.size == size:
            return {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[str(image.format)]
    return None
