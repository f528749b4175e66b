"""``elf curate``: copies, near duplicates and poor pictures, before anything is tagged.

Pictures are measured once and compared; for each it is proposed to keep or to drop it, and said
why. A contact sheet shows that, or the FiftyOne App; what is chosen there, or all proposals at once
(``--accept``), becomes decisions by id. No picture is ever moved, changed or deleted.
"""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from elf.configuration.command_parser import CommandParser
from elf.counted import counted, some
from elf.curation.contactsheet import THUMBNAILS, write_sheet
from elf.curation.embeddings import read_embeddings
from elf.curation.policy import Policy
from elf.curation.proposals import Entry, propose
from elf.curation.quality import FLAGS, Thresholds
from elf.curation.scan import Scan, Scanner, Thumbnails
from elf.curation.verdicts import accept, apply_file, read_verdicts
from elf.errors import ElfError
from elf.fiftyone_app import add_options, check_place, show_until_closed
from elf.files import FolderLock, explain_disk_errors, write_atomic
from elf.labels.decisions import DECISIONS
from elf.labels.records import MANIFEST
from elf.platforms import sync_disks

LOCK = ".curate.lock"
PROPOSALS = "proposals.jsonl"
LABELS = "data/labels"
_REMEDY = "what was measured is kept: mend that, then run the same command again to go on"
SHOWN = 10
"""Files that are listed at the most, of each kind."""


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where everything is.

    Args:
        root: Folder of the pictures, searched with its sub-folders.
        labels: Folder of the decisions.
        output: Folder of the contact sheet.
        cache: Folder of what was measured.
        tagging: Folder of what ``elf predict`` keeps: known files, embeddings.
    """

    root: Path
    labels: Path
    output: Path
    cache: Path
    tagging: Path

    @contextlib.contextmanager
    def locked(self, *more: Path) -> Iterator[None]:
        """Hold the cache, and more folders; no other process can scan meanwhile.

        Raises:
            ElfError: If there is no folder of pictures, before one is made, or another holds one.
        """
        if not self.root.is_dir():
            raise ElfError(f"root: no folder {self.root}; give the folder of the pictures")
        with contextlib.ExitStack() as stack:
            for folder in (self.cache, *more):
                stack.enter_context(FolderLock(folder, LOCK))
            yield


def find_out(folders: Folders, policy: Policy, sheet: bool) -> tuple[Scan, list[Entry]]:
    """Return what is in a folder and what is proposed.

    Args:
        folders: Where everything is.
        policy: What counts.
        sheet: Make thumbnails for the contact sheet.

    Raises:
        ElfError: If there is no picture, if another process does the same, or the disk refuses.
    """
    root = folders.root
    if sheet and folders.output.resolve().is_relative_to(root.resolve()):
        raise ElfError(
            f"output: {folders.output} lies in {root}, where thumbnails would count as pictures; "
            "give another folder"
        )
    thumbnails = Thumbnails(folders.output / THUMBNAILS) if sheet else None
    with contextlib.closing(Scanner(root, folders.cache, folders.tagging, thumbnails)) as scanner:
        scan = scanner.scan()
    if not scan.pictures and not scan.bad:
        raise ElfError(f"root: no pictures in {root}; put some there, or give another folder")
    embeddings = None
    if policy.similarity is not None:
        embeddings = read_embeddings(folders.tagging, [p.sha256 for p in scan.pictures])
    if embeddings is not None:
        scan.embedded = int(embeddings.any(1).sum())
    return scan, propose(scan.pictures, read_verdicts(folders.labels), policy, embeddings)


def accept_all(labels: Path, entries: Sequence[Entry]) -> tuple[int, list[Entry]]:
    """Write the proposals as decisions; return how many lines that took, and the entries as now."""
    proposals = {entry.picture.id: entry.reason for entry in entries}
    count = accept(labels, proposals, read_verdicts(labels))
    verdicts = read_verdicts(labels)
    return count, [
        dataclasses.replace(entry, verdict=verdicts.get(entry.picture.id)) for entry in entries
    ]


def write_proposals(path: Path, entries: Sequence[Entry]) -> None:
    """Write what is proposed, one JSON object a line, for other programs."""
    lines = [
        {
            "id": entry.picture.id,
            "path": entry.picture.paths[0],
            "copies": list(entry.picture.paths[1:]),
            "keep": entry.keep,
            "reason": entry.reason,
            "flags": list(entry.flags),
            "group": entry.leader,
            "width": entry.picture.facts.width,
            "height": entry.picture.facts.height,
            **dataclasses.asdict(entry.picture.facts.figures),
        }
        for entry in entries
    ]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


def report(root: Path, scan: Scan, entries: Sequence[Entry]) -> list[str]:
    """Return in words what was found."""
    copies = [
        f"  {path} has the same bytes as {picture.paths[0]}"
        for picture in scan.pictures
        for path in picture.paths[1:]
    ]
    sizes = Counter(entry.leader for entry in entries)
    groups = [size for size in sizes.values() if size > 1]
    counts = Counter(flag for entry in entries for flag in entry.flags)
    flags = ", ".join(f"{flag.replace('_', ' ')} {counts[flag]}" for flag in FLAGS if counts[flag])
    decided = sum(entry.verdict is not None and entry.verdict.by_person for entry in entries)
    drops = sum(entry.proposed_drop for entry in entries)
    opened = counted(scan.opened, "file was", "files were")
    alike = counted(len(copies), "copy", "copies")
    near = counted(sum(groups) - len(groups), "near duplicate")
    by = f", by {scan.embedded} embeddings too" if scan.embedded else ""
    return [
        f"{counted(len(entries), 'picture')} in {root}; {opened} new or changed",
        f"{alike}: the same bytes, so the same picture to all of Elf",
        *some(copies, SHOWN),
        f"{near} of {counted(len(groups), 'better picture')}{by}",
        f"flags: {flags or 'none'}",
        *([f"{counted(len(scan.bad), 'file')} cannot be used"] if scan.bad else []),
        *some([f"  {name}: {why}" for name, why in sorted(scan.bad.items())], SHOWN),
        f"proposed to drop: {drops}; decided by you: {decided}",
    ]


def _settle(labels: Path) -> None:
    """Let labels follow the decisions, if there are any yet."""
    if (labels / MANIFEST).exists():
        from elf.label import settle  # imports torch

        settle(labels)


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("curate", "Find copies, near duplicates and poor pictures.")
    parser.add_argument(
        "--backend",
        type=Literal["html", "fiftyone"],
        default="html",
        help="a contact sheet, or the FiftyOne App",
    )
    parser.add_argument("--root", type=str, default="data/raw", help="folder of the pictures")
    parser.add_argument("--labels", type=str, default=LABELS, help="of the decisions")
    parser.add_argument(
        "--output", type=str, default="data/curation", help="folder of the contact sheet"
    )
    parser.add_argument(
        "--cache", type=str, default=".cache/curation", help="folder of what was measured"
    )
    parser.add_argument(
        "--tagging", type=str, default=".cache/tagging", help="cache of `elf predict`"
    )
    parser.add_argument(
        "--accept", action="store_true", help="decide as proposed, where you have not decided"
    )
    parser.add_argument("--apply", type=str, help="a file of decisions from the contact sheet")
    parser.add_class_arguments(Policy)
    add_options(parser, "elf-curation")
    return parser


def main(arguments: list[str]) -> None:
    """Run ``elf curate``."""
    options = make_parser().read(arguments)
    names = {field.name for field in dataclasses.fields(Policy)}
    chosen = {name: options[name] for name in names} | {
        "thresholds": Thresholds(**dict(options.thresholds)),
        "drop": tuple(options.drop),
    }
    policy = Policy(**chosen)
    folders = Folders(**{f.name: Path(options[f.name]) for f in dataclasses.fields(Folders)})
    read_verdicts(folders.labels)  # what is wrong with them is said before anything is done
    with explain_disk_errors(folders.labels, "could not be read or written", _REMEDY):
        if options.apply is not None:
            _apply(folders.labels, Path(options.apply), options.accept)
        elif options.backend == "html":
            _sheet(folders, policy, options.accept)
        else:
            _review(folders, policy, options)


def _apply(labels: Path, file: Path, accepting: bool) -> None:
    if accepting:
        raise ElfError("apply: cannot go with --accept; run one after the other")
    count, among = apply_file(labels, file)
    _settle(labels)
    written = f"{counted(count, 'decision')} written to {labels / DECISIONS}"
    print(f"{written}, {among - count} held already")


def _accept(labels: Path, entries: list[Entry]) -> list[Entry]:
    count, entries = accept_all(labels, entries)
    _settle(labels)
    print(f"{counted(count, 'decision')} written to {labels / DECISIONS}")
    return entries


def _sheet(folders: Folders, policy: Policy, accepting: bool) -> None:
    output = folders.output
    with folders.locked(output):
        scan, entries = find_out(folders, policy, sheet=True)
        print("\n".join(report(folders.root, scan, entries)))
        if accepting:
            entries = _accept(folders.labels, entries)
        sync_disks()  # the thumbnails, before what refers to them
        write_proposals(output / PROPOSALS, entries)
        page = write_sheet(output, folders.root, entries, scan.bad, policy.drop)
    there = "" if folders.labels == Path(LABELS) else f" --labels {folders.labels}"
    print(f"open {page}, choose and save, then run `elf curate --apply FILE{there}`")


def _review(folders: Folders, policy: Policy, options: Any) -> None:
    from elf.curation.app import PLUGIN, open_dataset, read_back, rescue

    labels, name = folders.labels, options.name
    if options.action == "review":
        check_place(options.address, options.port)
    if options.action != "write":
        rescue(name)
        with folders.locked():
            scan, entries = find_out(folders, policy, sheet=False)
            print("\n".join(report(folders.root, scan, entries)))
            if options.accept:
                entries = _accept(labels, entries)
            dataset = open_dataset(name, folders.root, labels, entries)
        print(f"{counted(len(dataset), 'picture')}; views: {', '.join(dataset.list_saved_views())}")
    if options.action == "review":
        show_until_closed(dataset, PLUGIN, options.address, options.port, "Keep or Drop")
    if options.action != "open":
        written = read_back(name, labels)
        _settle(labels)
        tags = counted(written, "tag")
        print(f"{tags} written to {labels / DECISIONS}; buttons had written at once")
