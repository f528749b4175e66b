"""Why a picture has the tags that it has: each rule that acted, from the cache, without a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from elf.errors import ElfError
from elf.labels.records import MANIFEST, read_records
from elf.taggers.outputs import UNITS, CaptionOutput, ScoreOutput
from elf.taggers.select import Selection, Selector


@runtime_checkable
class Explainable(Protocol):
    """A module whose labels come from rules over stored outputs."""

    def recall(
        self, cache: str | None, sha256: str
    ) -> tuple[Selector, ScoreOutput | None, CaptionOutput | None]:
        """Return the rules, and what the models gave for a picture, from the cache."""


def explain(module: object, labels: str, cache: str | None, key: str) -> str:
    """Return what the rules, as they are now, make of a labelled picture, and why.

    Args:
        module: The tagger module.
        labels: Folder of the labels.
        cache: Folder of the cache.
        key: The picture's id, or its beginning.

    Raises:
        ElfError: If there is no such picture, or nothing is known about it.
    """
    if not isinstance(module, Explainable):
        raise ElfError(f"explain: {type(module).__name__} has no rules; take TaggerModule")
    found = [r for r in read_records(Path(labels) / MANIFEST) if r["id"].startswith(key)]
    if len(found) != 1:
        some = f"{len(found)} pictures have" if found else "no picture has"
        raise ElfError(
            f"explain: {some} an id that begins with {key!r} in {labels}/{MANIFEST}; "
            f"{'give more of it' if found else 'the texts beside that are named by their ids'}"
        )
    (record,) = found
    select, scores, caption = module.recall(cache, record["sha256"])
    if scores is None:
        raise ElfError(
            f"explain: the scores of {record['id']} by this tagger are not in {cache}; label it "
            "once more with --data.skip_existing false"
        )
    said = caption.text if caption is not None else record["attributes"]["florence_caption"]
    selection = select(scores.units, said)
    lines = [f"{record['id']}  {record['path']}  rating {selection.rating}"]
    if said:
        lines.append(f"caption: {said}")
    lines += _kept(select, selection, scores)
    lines += [f"- {name}: {why}" for name, why in selection.dropped.items()]
    lines += _reviewed(record)
    return "\n".join(lines)


def _kept(select: Selector, selection: Selection, scores: ScoreOutput) -> Iterator[str]:
    places = {name: index for index, name in enumerate(select.tags.names)}
    for text in selection.tags:
        notes = list(selection.notes.get(text, []))
        name = selection.sources.get(text)
        if name is not None:
            score = scores.units[places[name]] / UNITS
            notes.insert(0, f"{score:.4g}, {select.why(name)}")
        yield f"+ {text}: {'; '.join(notes)}"


def _reviewed(record: dict[str, Any]) -> Iterator[str]:
    decision = record["attributes"].get("decision")
    if not decision:
        return
    if decision["keep"] is False:
        yield "! the reviewer left the picture out"
    for key in decision["edited"]:
        text = record[key] if key == "caption" else ", ".join(record[key])
        yield f"! the reviewer wrote the {key}: {text}"
