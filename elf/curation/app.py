"""The FiftyOne App over the proposals: a dataset whose views are the groups, flags and drops.

Sample tags ``keep`` and ``drop`` show what is decided, and decide: by Elf's buttons at once, by
FiftyOne's own tag menu when the App is closed or by the next ``elf curate``. Labels are not shown:
there may be none yet.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elf.counted import counted
from elf.curation.proposals import Entry
from elf.curation.quality import FLAGS
from elf.errors import ElfError
from elf.fiftyone_app import fiftyone, load_own, new_dataset, set_sidebar
from elf.label import decide, show
from elf.labels.decisions import DECISIONS
from elf.labels.review import VERDICTS, Label

PLUGIN = Path(__file__).parent / "plugin"
GROUPS: dict[str, tuple[str, ...]] = {
    "tags": ("tags", "_label_tags"),
    "proposal": ("decision", "proposal", "reason", "flags"),
    "group": ("group", "group_size", "best", "alike"),
    "figures": ("width", "height", "bytes", "blur", "entropy", "brightest", "darkest", "colour"),
}
"""The App's sidebar; all other fields stand in a closed group below."""

DUPLICATES, DROPS, COPIES = "near duplicates", "proposed drops", "copies"


def open_dataset(name: str, root: Path, labels: Path, entries: Sequence[Entry]) -> Any:
    """Return a persistent FiftyOne dataset of the pictures, with its saved views.

    Raises:
        ElfError: If fiftyone is missing, or there are no pictures.
    """
    fo = fiftyone()
    if not entries:
        raise ElfError(f"root: no picture in {root} can be used; the reasons stand above")
    dataset = new_dataset(name, labels)
    for field in ("decision", "reason", "alike"):
        dataset.add_sample_field(field, fo.StringField)  # nobody may have any
    dataset.add_sample_field("flags", fo.ListField, subfield=fo.StringField)
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.leader] = sizes.get(entry.leader, 0) + 1
    samples = (_sample(fo, entry, root, sizes[entry.leader]) for entry in entries)
    dataset.add_samples(samples, num_samples=len(entries))
    field = fo.ViewField
    alike = dataset.match(field("group_size") > 1).sort_by([("group", 1), ("best", -1)])
    dataset.save_view(DUPLICATES, alike)
    dataset.save_view(DROPS, dataset.match(field("proposed_drop")))
    for flag in FLAGS:
        dataset.save_view(flag.replace("_", " "), dataset.match(field("flags").contains(flag)))
    dataset.save_view(COPIES, dataset.match(field("copies") > 1))
    for tag in VERDICTS.values():
        dataset.save_view(f"decided: {tag}", dataset.match_tags(tag))
    set_sidebar(dataset, GROUPS)
    dataset.app_config.active_fields = fo.ActiveFields(paths=["decision", "proposal", "flags"])
    dataset.save()
    return dataset


def _sample(fo: Any, entry: Entry, root: Path, size: int) -> Any:
    picture, facts, figures = entry.picture, entry.picture.facts, entry.picture.facts.figures
    sample = fo.Sample(
        filepath=str((root / picture.paths[0]).absolute()),
        elf_id=picture.id,
        proposal=VERDICTS[entry.keep],
        proposed_drop=entry.proposed_drop,
        reason=entry.reason,
        flags=list(entry.flags),
        group=entry.leader,
        group_size=size,
        best=entry.leader == picture.id,
        alike=entry.alike or None,
        copies=len(picture.paths),
        width=facts.width,
        height=facts.height,
        bytes=facts.size,
        blur=figures.blur,
        entropy=figures.entropy,
        brightest=figures.brightest,
        darkest=figures.darkest,
        colour=figures.colour,
    )
    nothing: dict[str, Any] = {"models": {"keep": None, "tags": [], "caption": ""}, "scores": {}}
    keep = None if entry.verdict is None else entry.verdict.keep
    show(sample, Label(keep, [], ""), nothing)
    return sample


def read_back(name: str, labels: Path) -> int:
    """Note what was tagged in the App and not noted yet; return of how many pictures.

    Raises:
        ElfError: If there is no such dataset, it is of other decisions, or these cannot be
            written.
    """
    dataset = load_own("curate", name, labels)
    if dataset is None:
        return 0
    return decide(dataset.iter_samples(), labels, lambda _: {})


def rescue(name: str) -> None:
    """Note what a review that was killed left in its dataset, before that is made anew."""
    fo = fiftyone()
    if fo.dataset_exists(name) and "labels" in (info := fo.load_dataset(name).info):
        labels = Path(info["labels"])
        if count := read_back(name, labels):
            decisions = counted(count, "decision")
            print(f"{decisions} of an interrupted review written to {labels / DECISIONS}")
