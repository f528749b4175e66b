"""A folder of pictures, for the predict loop."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule

from elf.caching.fileindex import FileIndex
from elf.counted import counted
from elf.errors import ElfError
from elf.files import sha256_file
from elf.images import SUFFIXES, id_of, picture_names
from elf.labels.records import labelled_ids
from elf.processes import gather
from elf.reader import Batch, PictureLoader, PictureReader, Task, Transform


@runtime_checkable
class TakesPictures(Protocol):
    """A module that says how a decoded picture becomes the pixels of its models."""

    @property
    def transform(self) -> Transform:
        """From an RGB picture to pixels by the models' names; run by several threads."""

    def missing(self, sha256: str) -> tuple[str, ...]:
        """Return the models that have to see a picture (all, if its content is not known)."""

    def begin(self, batch: Batch) -> None:
        """Let the models look at a batch, which is to be predicted soon."""


class PictureFolder(LightningDataModule):
    """All pictures under a folder that have no label yet, sorted by their relative path.

    Of several processes each gets the pictures whose id says so.

    Args:
        root: Folder of the pictures, searched with its sub-folders.
        labels: Folder of the labels: what its manifest holds is skipped.
        cache: Folder of what the models gave, and of what is known about files; none keeps nothing.
        skip_existing: Skip pictures that have a label; otherwise all are labelled again.
        batch_size: Pictures that the models see at once.
        workers: Threads that decode; 0 decodes between the models' batches.

    Attributes:
        paths: The pictures that this process labels, relative to the root, in order.
        skipped: How many have a label already, for all processes.
        duplicates: Files with the same bytes as an earlier one, and that one's path.
        loader: The batches, once they were asked for.
    """

    def __init__(
        self,
        root: str = "data/raw",
        labels: str = "data/labels",
        cache: str | None = ".cache/tagging",
        skip_existing: bool = True,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if batch_size < 1:
            raise ElfError(f"data.batch_size: {batch_size} is below 1")
        if workers < 0:
            raise ElfError(f"data.workers: {workers} is negative; 0 decodes in the main thread")
        self.root = root
        self.labels = labels
        self.cache = cache
        self.skip_existing = skip_existing
        self.batch_size = batch_size
        self.workers = workers
        self.paths: list[str] = []
        self.skipped = 0
        self.duplicates: dict[str, str] = {}
        self.loader: PictureLoader | None = None
        self._digests: list[str] = []

    def setup(self, stage: str) -> None:
        """Find the pictures, and leave out copies and what is labelled.

        Raises:
            ElfError: If the folder is missing or holds no picture.
        """
        names = find_pictures(self.root)
        labelled = labelled_ids(self.labels) if self.skip_existing else set()
        rank = self.trainer.global_rank if self.trainer else 0
        world = self.trainer.world_size if self.trainer else 1
        self.paths, self._digests, self.skipped, self.duplicates = [], [], 0, {}
        first: dict[str, str] = {}
        digests = self._sha256(names, rank, world)
        for number, (name, digest) in enumerate(zip(names, digests, strict=True)):
            if digest and digest in first:
                self.duplicates[name] = first[digest]
                continue
            if digest:
                first[digest] = name
            if id_of(digest) in labelled:
                self.skipped += 1
            # what cannot be read is left to the reader, which says why
            elif (int(id_of(digest), 16) if digest else number) % world == rank:
                self.paths.append(name)
                self._digests.append(digest)

    def _sha256(self, names: Sequence[str], rank: int, world: int) -> list[str]:
        """Return the sha256 of each file, empty where it cannot be read.

        Only new and changed files are opened; each process opens its share of them.
        """
        index = FileIndex(self.cache) if self.cache is not None else None
        try:
            root = os.path.abspath(self.root)
            own = _sha256_all([os.path.join(root, name) for name in names[rank::world]], index)
        finally:
            if index is not None:
                index.close()
        digests = [""] * len(names)
        for share, found in enumerate(gather(own)):
            digests[share::world] = found
        return digests

    def predict_dataloader(self) -> PictureLoader:
        """Return the batches of what :meth:`setup` found."""
        module = self.trainer.lightning_module if self.trainer else None
        if not isinstance(module, TakesPictures):
            raise ElfError(
                f"model.class_path: {type(module).__name__} cannot tag pictures; take TaggerModule"
            )
        if not self.paths:  # all is labelled: that is no reason to warn
            warnings.filterwarnings("ignore", message="Total length of `.*` across ranks is zero")
        tasks = [
            Task(path, digest, module.missing(digest))
            for path, digest in zip(self.paths, self._digests, strict=True)
        ]
        reader = PictureReader(self.root, module.transform)
        self.loader = PictureLoader(reader, tasks, self.batch_size, self.workers, module.begin)
        return self.loader

    def transfer_batch_to_device(self, batch: Batch, device: Any, dataloader_idx: int) -> Batch:
        """Leave batches where they are: each model takes its own part of the pixels."""
        return batch


def find_pictures(root: str) -> list[str]:
    """Return the pictures under a folder, by their paths relative to it, sorted.

    Raises:
        ElfError: If the folder is missing or holds no picture.
    """
    if not Path(root).is_dir():
        raise ElfError(f"data.root: no folder {root}; give an existing folder of pictures")
    names = picture_names(root)
    if not names:
        files = sum(len(files) for _, _, files in os.walk(root))
        found = f"holds {counted(files, 'file')} but no picture" if files else "is empty"
        raise ElfError(f"data.root: {root} {found}; put pictures ({_suffixes()}) there")
    return names


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _sha256_all(paths: Sequence[str], index: FileIndex | None) -> list[str]:
    """Return the sha256 of each file, empty where it cannot be read; hashing uses all cores."""

    def digest(path: str) -> str:
        try:
            return index.sha256(path) if index is not None else sha256_file(path)
        except OSError:
            return ""

    known = [index.lookup(path) or "" if index is not None else "" for path in paths]
    unknown = [number for number, found in enumerate(known) if not found]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        fresh = pool.map(digest, [paths[number] for number in unknown])
        for number, found in zip(unknown, fresh, strict=True):
            known[number] = found
    return known
