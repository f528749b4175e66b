"""``elf label``: review tags, captions and keep/drop in the FiftyOne App; what is decided stays.

The App shows the manifest. Its buttons (:mod:`elf.fiftyone_plugin`) write each decision into
``decisions.jsonl`` before they answer; it wins over the models for ever after. What else was
changed there, sample tags ``keep`` and ``drop``, ``elf_tags`` and ``caption``, is read back when
the App is closed, or by the next ``elf label``. Then the labels follow.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from elf.configuration.command_parser import CommandParser
from elf.counted import counted
from elf.errors import ElfError
from elf.fiftyone_app import (
    add_options,
    check_place,
    fiftyone,
    load_own,
    new_dataset,
    set_sidebar,
    show_until_closed,
)
from elf.files import explain_disk_errors, iterate_log
from elf.images import LabelledPictures
from elf.labels.decisions import DECISIONS, Decision, add_decisions, read_decisions
from elf.labels.handedits import HandEdits, OldRecords
from elf.labels.manifest import LabelFolder
from elf.labels.records import MANIFEST, Record, labelled_ids, read_records
from elf.labels.review import (
    VERDICTS,
    Label,
    by_models,
    changes,
    confidence,
    edited,
    in_force,
    in_words,
    one_line,
    split_tags,
    unusualness,
    verdict,
)
from elf.labels.thresholds import fit_threshold, judged_tags

VIEWS = ("low confidence", "WD only", "most unusual", "left out")
SHARE = 10
"""A view of the extreme ones shows one picture in so many."""
PLUGIN = Path(__file__).parent / "fiftyone_plugin"
GROUPS: dict[str, tuple[str, ...]] = {
    "tags": ("tags", "_label_tags"),
    "label": ("elf_tags", "caption", "decision", "rating"),
    "how sure": ("confidence", "unusualness", "florence_status"),
}
"""The App's sidebar; all other fields stand in a closed group below."""


def open_dataset(name: str, root: Path, labels: Path) -> Any:
    """Return a persistent FiftyOne dataset of the labelled pictures, with its saved views.

    Raises:
        ElfError: If nothing is labelled, or fiftyone is missing.
    """
    fo = fiftyone()
    records = list(read_records(labels / MANIFEST))
    if not records:
        raise ElfError(f"{labels / MANIFEST} holds no labels: run `elf predict` first")
    dataset = new_dataset(name, labels)
    dataset.add_sample_field("decision", fo.StringField)  # nothing may be decided yet
    rare = unusualness(records)
    there = LabelledPictures(root)
    samples = (
        _sample(fo, record, root, there.path(record["path"], record["id"]), rare)
        for record in records
    )
    dataset.add_samples(samples, num_samples=len(records))
    field = fo.ViewField
    some = max(1, len(records) // SHARE)
    dataset.save_view(VIEWS[0], dataset.sort_by("confidence").limit(some))
    dataset.save_view(VIEWS[1], dataset.match(field("florence_status") != "ok"))
    dataset.save_view(VIEWS[2], dataset.sort_by("unusualness", reverse=True).limit(some))
    dataset.save_view(VIEWS[3], dataset.match_tags(VERDICTS[False]))
    set_sidebar(dataset, GROUPS)
    dataset.app_config.color_scheme = fo.ColorScheme(
        fields=[{"path": "elf_tags", "fieldColor": "#1b6e4a"}]
    )
    dataset.app_config.active_fields = fo.ActiveFields(paths=["decision", "elf_tags"])
    dataset.save()
    return dataset


def _sample(fo: Any, record: Record, root: Path, path: str, rare: dict[str, float]) -> Any:
    attributes = record.get("attributes", {})
    sample = fo.Sample(
        filepath=str((root / path).absolute()),
        elf_id=record["id"],
        rating=record.get("rating") or "",
        florence_status=attributes.get("florence_status", ""),
        confidence=confidence(record) or 0.0,
        unusualness=rare[record["id"]],
    )
    models, scores = by_models(record), attributes.get("scores", {})
    show(sample, in_force(record), {"models": dataclasses.asdict(models), "scores": scores})
    return sample


def show(sample: Any, label: Label, known: dict[str, Any]) -> None:
    """Make a sample show a label, and remember that it does."""
    fo = fiftyone()
    others = [tag for tag in sample.tags if tag not in VERDICTS.values()]
    sample.tags = others + [tag for keep, tag in VERDICTS.items() if keep is label.keep]
    sample["elf_tags"] = fo.Classifications(
        classifications=[
            fo.Classification(label=tag, confidence=known["scores"].get(tag)) for tag in label.tags
        ]
    )
    sample["caption"] = label.caption
    sample["decision"] = in_words(label, Label(**known["models"]))
    sample["elf_known"] = json.dumps(known | {"shown": dataclasses.asdict(label)})


def in_app(sample: Any) -> Label:
    """Return the label that a sample shows now, whoever changed it."""
    shown = Label(**json.loads(sample["elf_known"])["shown"])
    made = sample["elf_tags"].classifications if sample["elf_tags"] else []
    tags = [tag for entry in made for tag in split_tags(entry.label)]
    caption = one_line(sample["caption"])
    if caption == one_line(shown.caption):
        caption = shown.caption
    return Label(verdict(sample.tags, shown.keep), tags, caption)


def decide(samples: Iterable[Any], labels: Path, edit: Callable[[Label], Decision]) -> int:
    """Note what an edit makes of samples, durably, and then show it; return how many changed.

    What was changed in the App by other means is noted along with it.

    Args:
        samples: Of the dataset.
        labels: Folder of the labels.
        edit: From the label that a sample shows to a decision.

    Raises:
        ElfError: If the decisions cannot be written.
    """
    decisions, shows = [], []
    for sample in samples:
        known = json.loads(sample["elf_known"])
        now = in_app(sample)
        decision = edit(now)
        wanted = edited(now, Label(**known["models"]), decision)
        made = changes(Label(**known["shown"]), wanted)
        made |= {key: None for key, value in decision.items() if value is None}
        if made:
            decisions.append({"id": sample["elf_id"]} | made)
            shows.append((sample, wanted, known))
    remedy = "nothing was decided: mend that, then do it again"
    with explain_disk_errors(labels / DECISIONS, "could not write", remedy):
        add_decisions(labels, decisions)
    for sample, wanted, known in shows:
        show(sample, wanted, known)
        sample.save()
    return len(decisions)


def read_back(name: str, labels: Path) -> int:
    """Note what was changed in the App and not noted yet; return of how many pictures.

    Raises:
        ElfError: If there is no such dataset, it is of other labels, or another process writes
            these.
    """
    dataset = load_own("label", name, labels)
    if dataset is None:
        return 0
    ids = labelled_ids(labels)
    return decide((s for s in dataset.iter_samples() if s["elf_id"] in ids), labels, lambda _: {})


def rescue(name: str) -> None:
    """Note what a review that was killed left in its dataset, before that is made anew."""
    fo = fiftyone()
    if not fo.dataset_exists(name):
        return
    folder = Path(fo.load_dataset(name).info.get("labels", "no such folder"))
    if (folder / MANIFEST).is_file() and (count := read_back(name, folder)):
        decisions = counted(count, "decision")
        print(f"{decisions} of an interrupted review written to {folder / DECISIONS}")


def settle(labels: Path) -> None:
    """Bring the decisions into the labels; text files that were edited by hand are among them.

    Raises:
        ElfError: If another process writes the labels.
    """
    LabelFolder(labels).close()  # opening does it
    edits = HandEdits(labels, OldRecords(labels / MANIFEST), read_decisions(labels))
    for record in read_records(labels / MANIFEST):
        edits.decided(record, old=record)
    if edits.count:
        edits.tell()
        LabelFolder(labels).close()


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


def _lines(labels: Path) -> Iterator[Record]:
    return iterate_log(labels / DECISIONS)


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("label", "Review tags, captions and keep/drop in the FiftyOne App.")
    parser.add_argument("--backend", type=Literal["fiftyone"], default="fiftyone", help="the App")
    parser.add_argument("--labels", type=str, default="data/labels", help="folder of the labels")
    parser.add_argument("--root", type=str, default="data/raw", help="folder of the pictures")
    add_options(parser, "elf-labels")
    return parser


def main(arguments: list[str]) -> None:
    """``elf label [--labels DIR] [--root DIR]``: review in the browser, then write back."""
    options = make_parser().read(arguments)
    labels = Path(options.labels)
    if not (labels / MANIFEST).exists():
        raise ElfError(f"label: {labels / MANIFEST} is missing; run `elf predict` first")
    read_decisions(labels)  # what is wrong with them is said before the App opens
    if options.action == "review":
        check_place(options.address, options.port)
    before = sum(1 for _ in _lines(labels))
    if options.action != "write":
        rescue(options.name)
        settle(labels)
        before = sum(1 for _ in _lines(labels))
        dataset = open_dataset(options.name, Path(options.root), labels)
        print(f"{counted(len(dataset), 'picture')}; views: {', '.join(dataset.list_saved_views())}")
    if options.action == "review":
        buttons = "a button of Elf's"
        show_until_closed(dataset, PLUGIN, options.address, options.port, buttons)
    if options.action != "open":
        read_back(options.name, labels)
        settle(labels)
        written = sum(1 for _ in _lines(labels)) - before
        print(f"{counted(written, 'decision')} written to {labels / DECISIONS}")
        print(suggestion(labels))
