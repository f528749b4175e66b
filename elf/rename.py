"""``elf rename``: pictures get their content ids as names, and can get their old names back.

The journal (:mod:`elf.renamejournal`) holds every rename before it is done. A run that was cut off
is completed by the next one; each picture has exactly one name at every instant.
"""

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from elf.configuration.command_parser import CommandParser
from elf.counted import counted, some
from elf.errors import ElfError, ElfWarning
from elf.files import sha256_file
from elf.images import FORMATS, MASK, id_of, picture_names
from elf.platforms import sync_folder
from elf.renamejournal import DONE, JOURNAL, Batch, Move, open_journal, read_batches, take_up

ROOT = "data/raw"
SHOWN = 20
"""Names that are listed at the most, of each kind."""


@dataclass
class Plan:
    """What a rename would do.

    Attributes:
        moves: In an order in which no target is taken; files beside a picture that share its
            name follow it.
        pictures: How many of them are pictures.
        named: Pictures that have their name already.
        left: Files that keep their names, and why.
    """

    moves: list[Move] = field(default_factory=list)
    pictures: int = 0
    named: int = 0
    left: dict[str, str] = field(default_factory=dict)


def make_plan(root: Path) -> Plan:
    """Return what is to be renamed under a folder, sub-folders included; nothing is changed.

    A picture becomes ``{id}{suffix}`` in the folder where it lies: the first 16 hex digits of its
    bytes' sha256, and the suffix of what it is, whatever it was called.

    Raises:
        ElfError: If there is no such folder or no picture in it.
    """
    if not root.is_dir():
        raise ElfError(f"root: no folder {root}; give the folder of the pictures")
    names = picture_names(root)
    if not names:
        raise ElfError(f"root: no pictures in {root}; put some there, or give another folder")
    plan = Plan()
    wanted: dict[str, str] = {}
    first: dict[str, str] = {}
    found = dict(zip(names, _targets(root, names), strict=True))
    # of several with the same bytes, the one that has its name already keeps it
    for name in sorted(names, key=lambda name: (name != found[name][1], name)):
        digest, target = found[name]
        if not digest:
            plan.left[name] = target  # the reason
        elif digest in first:
            plan.left[name] = f"has the same bytes as {first[digest]}"
        else:
            first[digest] = name
            plan.named += name == target
            if name != target:
                wanted[name] = target
    _order(root, wanted, set(names), plan)
    return plan


def _targets(root: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each picture's sha256 and new path; an empty one and the reason if it is unreadable."""

    def target(name: str) -> tuple[str, str]:
        path = root / name
        try:
            digest = sha256_file(path)
            return digest, (Path(name).parent / f"{id_of(digest)}{_suffix(path)}").as_posix()
        except OSError as error:
            return "", f"could not be read ({error.strerror or error})"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(target, names)
        yield from tqdm(found, "reading", len(names), leave=False, unit=" pictures", disable=None)


def _suffix(path: Path) -> str:
    """Return the suffix of a picture's format; its own, in small letters, if that is not known."""
    # whatever Pillow raises on damaged files: `elf predict` says what is wrong with it
    with contextlib.suppress(Exception), Image.open(path, formats=list(FORMATS)) as image:
        return FORMATS[str(image.format)]
    return path.suffix.lower()


def _order(root: Path, wanted: dict[str, str], pictures: set[str], plan: Plan) -> None:
    """Put the moves into an order in which every target is free; what cannot be is left."""
    beside, taken = _beside(root, pictures)
    todo = wanted
    while todo:
        later = {}
        for source, target in todo.items():
            stem = target.removesuffix(Path(target).suffix)
            moves = [Move(source, target)]
            moves += [Move(name, stem + _end(name)) for name in beside.get(source, ())]
            if any(move.target in taken for move in moves):
                later[source] = target
                continue
            taken -= {move.source for move in moves}
            taken |= {move.target for move in moves}
            plan.moves += moves
            plan.pictures += 1
        if len(later) == len(todo):
            break
        todo = later
    else:
        return
    plan.left |= {name: f"another file is called {target}" for name, target in todo.items()}


def _beside(root: Path, pictures: set[str]) -> tuple[dict[str, list[str]], set[str]]:
    """Return the files that share a picture's name but for the suffix, and all files' paths."""
    stems = Counter(name.removesuffix(Path(name).suffix) for name in pictures)
    owners = {name.removesuffix(Path(name).suffix): name for name in pictures}
    beside: dict[str, list[str]] = {}
    taken = set()
    for folder in {(root / name).parent for name in pictures}:
        for entry in sorted(os.listdir(folder)):
            name = (folder / entry).relative_to(root).as_posix()
            taken.add(name)
            stem = name.removesuffix(_end(name))
            if name not in pictures and stems[stem] == 1 and (folder / entry).is_file():
                beside.setdefault(owners[stem], []).append(name)
    return beside, taken


def _end(name: str) -> str:
    """Return what follows the name that a picture shares with the files beside it."""
    return name[-len(MASK) :] if name.lower().endswith(MASK) else Path(name).suffix


def rename(root: Path) -> Plan:
    """Rename the pictures under a folder; what a run that was cut off had begun is completed.

    Raises:
        ElfError: If there are none, if another process renames there, or if the disk refuses.
    """
    if not root.is_dir():
        return make_plan(root)  # which says so
    with open_journal(root) as journal:
        begun = take_up(root, journal)
        _do(root, begun)
        plan = make_plan(root)
        if plan.moves:
            journal.append(*Batch(len(plan.moves), plan.moves).records())
            journal.sync()
        _do(root, plan.moves)
        if begun or plan.moves:
            journal.append(DONE)
    return plan


def undo(root: Path) -> tuple[int, dict[str, str]]:
    """Give all files their old names back.

    Returns:
        How many were renamed, and those that were not, with the reason.

    Raises:
        ElfError: If nothing was renamed there, if another process renames, or the disk refuses.
    """
    if not (root / JOURNAL).exists():
        raise ElfError(f"root: nothing to undo, {root / JOURNAL} does not exist; is it the folder?")
    count, left, kept = 0, {}, []
    gone: dict[str, str] = {}  # of files that were taken away, by an earlier name: the last one
    with open_journal(root) as journal:
        batches = read_batches(journal)
        moves = [move for batch in batches for move in batch.moves]
        for move in reversed(moves):
            old, new = root / move.source, root / move.target
            if not new.exists():
                if not old.exists():  # or else it was never renamed: a run that was cut off
                    gone[move.source] = gone.pop(move.target, move.target)
                continue
            if old.exists():
                left[move.target] = f"another file is called {move.source}"
                kept.append(move)
                continue
            os.rename(new, old)
            count += 1
        _sync(root, (move.source for move in moves))
        journal.rewrite(Batch(len(kept), kept[::-1], done=True).records() if kept else [])
    if lost := sum(batch.lost for batch in batches):
        warnings.warn(
            f"{root / JOURNAL} was cut: it named {len(moves)} of {len(moves) + lost} files; the "
            "others keep the names that they have",
            ElfWarning,
            stacklevel=2,
        )
    left |= {last: f"not there any more; it was {name}" for name, last in gone.items()}
    return count, left


def _do(root: Path, moves: list[Move]) -> None:
    for move in moves:
        # one that a run did before it was cut off is not there any more
        if (root / move.source).exists() and not (root / move.target).exists():
            os.rename(root / move.source, root / move.target)
    _sync(root, (move.target for move in moves))


def _sync(root: Path, names: Iterable[str]) -> None:
    for folder in {(root / name).parent for name in names}:
        sync_folder(folder)


def report(plan: Plan, root: Path, dry_run: bool) -> list[str]:
    """Return in words what was done, or what would be."""
    beside = len(plan.moves) - plan.pictures
    more = f" with {counted(beside, 'file')} beside them" if beside else ""
    done = "would be renamed" if dry_run else "renamed"
    pictures = counted(plan.pictures, "picture")
    text = [f"{pictures} {done}{more}, {plan.named} had their name already"]
    if dry_run:
        text += some([f"  {move.source} -> {move.target}" for move in plan.moves], SHOWN)
    text += some([f"  {name} stays: {why}" for name, why in sorted(plan.left.items())], SHOWN)
    if plan.moves and not dry_run:
        there = "" if root == Path(ROOT) else f" --root {root}"
        text.append(f"the old names come back by `elf rename --undo{there}`")
    return text


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("rename", "Give pictures their content ids as names.")
    parser.add_argument("--root", type=str, default=ROOT, help="folder of the pictures")
    parser.add_argument("--dry_run", action="store_true", help="show what would be done")
    parser.add_argument("--undo", action="store_true", help="give all files their old names back")
    return parser


def main(arguments: list[str]) -> None:
    """Run ``elf rename``."""
    options = make_parser().read(arguments)
    root = Path(options.root)
    if options.undo:
        if options.dry_run:
            raise ElfError("undo: cannot be tried with --dry_run; take one of the two")
        count, left = undo(root)
        stay = some([f"  {name}: {why}" for name, why in sorted(left.items())], SHOWN)
        files = counted(count, "file has its old name", "files have their old names")
        print("\n".join([f"{files} again", *stay]))
        return
    plan = make_plan(root) if options.dry_run else rename(root)
    print("\n".join(report(plan, root, options.dry_run)))
