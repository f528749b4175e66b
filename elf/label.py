"""``elf label``: review tags, captions and keep/drop in the FiftyOne App; what is decided stays.

The App shows the manifest. Sample tags ``keep`` and ``drop``, the labels in ``elf_tags`` and the
text in ``caption`` are the reviewer's; they are read back by id into ``decisions.jsonl``, which
wins over the models for ever after, and from there into the labels.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from elf.command_parser import CommandParser
from elf.decisions import add_decisions, read_decisions
from elf.errors import ElfError
from elf.manifest import MANIFEST, LabelFolder, read_records
from elf.thresholds import fit_threshold, judged_tags

Record = dict[str, Any]
VIEWS = ("low confidence", "WD only", "most unusual", "left out")
SHARE = 10
"""A view of the extreme ones shows one picture in so many."""


def confidence(record: Record) -> float | None:
    """Return the mean score of a label's tags; None if none of them has one."""
    scores = record.get("attributes", {}).get("scores", {})
    return sum(scores.values()) / len(scores) if scores else None


def unusualness(records: Iterable[Record]) -> dict[str, float]:
    """Return for each id how rare its tags are here: their mean self-information, in nats."""
    labels = {record["id"]: _before(record)["tags"] for record in records}
    counts = Counter(tag for tags in labels.values() for tag in set(tags))
    return {
        key: sum(math.log(len(labels) / counts[tag]) for tag in tags) / len(tags) if tags else 0.0
        for key, tags in labels.items()
    }


def changes(record: Record, keep: bool | None, tags: list[str], caption: str | None) -> Record:
    """Return the decision that a review adds to a manifest's record; its id alone if none.

    Args:
        record: As the manifest holds it.
        keep: The reviewer's verdict, none if there is none.
        tags: The label in the App.
        caption: The caption in the App.
    """
    shown = _shown(record)
    decision: Record = {"id": record["id"]}
    if keep != record.get("attributes", {}).get("decision", {}).get("keep"):
        decision["keep"] = keep
    if tags != shown["tags"]:
        decision["tags"] = tags
    if (caption or "") != (shown["caption"] or ""):
        decision["caption"] = caption or ""
    return decision


def _before(record: Record) -> Record:
    found: Record = record.get("attributes", {}).get("before_review", record)
    return found


def _shown(record: Record) -> Record:
    """Return tags and caption as the App shows them: those of a left-out picture too."""
    if record.get("attributes", {}).get("decision", {}).get("keep") is not False:
        return {"tags": record["tags"], "caption": record.get("caption")}
    return {"tags": _before(record)["tags"], "caption": _before(record).get("caption")}


def open_dataset(name: str, root: Path, labels: Path) -> Any:
    """Return a persistent FiftyOne dataset of the labelled pictures, with its saved views.

    Raises:
        ElfError: If nothing is labelled, or fiftyone is missing.
    """
    fo = _fiftyone()
    records = list(read_records(labels / MANIFEST))
    if not records:
        raise ElfError(f"{labels / MANIFEST} holds no labels: run `elf predict` first")
    if fo.dataset_exists(name):
        fo.delete_dataset(name)
    dataset = fo.Dataset(name, persistent=True)
    rare = unusualness(records)
    dataset.add_samples(_samples(fo, records, root, rare), num_samples=len(records))
    field = fo.ViewField
    some = max(1, len(records) // SHARE)
    dataset.save_view(VIEWS[0], dataset.sort_by("confidence").limit(some))
    dataset.save_view(VIEWS[1], dataset.match(field("florence_status") != "ok"))
    dataset.save_view(VIEWS[2], dataset.sort_by("unusualness", reverse=True).limit(some))
    dataset.save_view(VIEWS[3], dataset.match_tags("drop"))
    return dataset


def _samples(fo: Any, records: list[Record], root: Path, rare: dict[str, float]) -> Iterator[Any]:
    for record in records:
        attributes = record.get("attributes", {})
        scores = attributes.get("scores", {})
        shown = _shown(record)
        keep = attributes.get("decision", {}).get("keep")
        verdict = {True: ["keep"], False: ["drop"], None: []}[keep]
        yield fo.Sample(
            filepath=str((root / record["path"]).absolute()),
            tags=verdict,
            elf_id=record["id"],
            elf_tags=fo.Classifications(
                classifications=[
                    fo.Classification(label=tag, confidence=scores.get(tag))
                    for tag in shown["tags"]
                ]
            ),
            caption=shown["caption"] or "",
            rating=record.get("rating") or "",
            florence_status=attributes.get("florence_status", ""),
            confidence=confidence(record) or 0.0,
            unusualness=rare[record["id"]],
        )


def read_back(name: str, labels: Path) -> int:
    """Write what was decided in the App into ``decisions.jsonl`` and the labels; return how many.

    Raises:
        ElfError: If there is no such dataset, or another process writes the labels.
    """
    fo = _fiftyone()
    if not fo.dataset_exists(name):
        raise ElfError(f"label: no dataset {name!r} to read back; open it by `elf label` first")
    folder = LabelFolder(labels)  # the lock: nobody else writes meanwhile
    folder.close()
    records = {record["id"]: record for record in read_records(labels / MANIFEST)}
    decisions = []
    for sample in fo.load_dataset(name).iter_samples():
        record = records.get(sample["elf_id"])
        if record is None:
            continue
        keep = False if "drop" in sample.tags else True if "keep" in sample.tags else None
        made = sample["elf_tags"].classifications if sample["elf_tags"] else []
        tags = [entry.label.strip() for entry in made if entry.label and entry.label.strip()]
        decision = changes(record, keep, tags, sample["caption"])
        if len(decision) > 1:
            decisions.append(decision)
    count = add_decisions(labels, decisions)
    LabelFolder(labels).close()  # opening brings the decisions into the labels
    return count


def suggestion(labels: Path) -> str:
    """Return the cutoff that fits the reviewer's edits best, in words."""
    scores, kept = judged_tags(read_records(labels / MANIFEST))
    fit = fit_threshold(scores, kept)
    if fit is None:
        return "no edited labels yet to fit a cutoff to"
    return (
        f"cutoff that fits the edits best: --model.rules.threshold {fit.threshold:.4g} "
        f"(F1 {fit.f1:.3f}, at present {fit.f1_at_present:.3f}; {fit.tags} judged tags)"
    )


def _fiftyone() -> Any:
    """Import FiftyOne, quietly: it asks the network nothing."""
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    try:
        import fiftyone
    except ImportError:
        raise ElfError(
            "label: fiftyone is not installed; `pip install 'elf[curate]'`, or edit "
            "data/labels/decisions.jsonl by hand"
        ) from None
    return fiftyone


def main(arguments: list[str]) -> None:
    """``elf label [--labels DIR] [--root DIR]``: review in the browser, then write back."""
    parser = CommandParser("label", "Review tags, captions and keep/drop in the FiftyOne App.")
    parser.add_argument("--backend", type=Literal["fiftyone"], default="fiftyone", help="the App")
    parser.add_argument("--labels", type=str, default="data/labels", help="folder of the labels")
    parser.add_argument("--root", type=str, default="data/raw", help="folder of the pictures")
    parser.add_argument("--name", type=str, default="elf-labels", help="of the dataset")
    parser.add_argument("--port", type=int, default=5151, help="of the App")
    parser.add_argument(
        "--action",
        type=Literal["review", "open", "write"],
        default="review",
        help="open the App and write back when it is closed, or one of the two",
    )
    options = parser.read(arguments)
    labels = Path(options.labels)
    if not (labels / MANIFEST).exists():
        raise ElfError(f"label: {labels / MANIFEST} is missing; run `elf predict` first")
    read_decisions(labels)  # what is wrong with them is said before the App opens
    if options.action != "write":
        dataset = open_dataset(options.name, Path(options.root), labels)
        print(f"{len(dataset)} pictures; views: {', '.join(dataset.list_saved_views())}")
    if options.action == "review":
        session = _fiftyone().launch_app(dataset, port=options.port)
        print("tag samples `keep` or `drop`, edit `elf_tags` and `caption`; close the tab to end")
        session.wait()
    if options.action != "open":
        print(f"{read_back(options.name, labels)} decisions written to {labels}/decisions.jsonl")
        print(suggestion(labels))
