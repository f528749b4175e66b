"""A folder of pictures, for the predict loop."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from elf.errors import ElfError
from elf.files import sha256_file
from elf.images import SUFFIXES, Batch, PictureReader, Transform, collate, list_pictures
from elf.manifest import labelled_ids


@runtime_checkable
class HasTransform(Protocol):
    """A module that says how a decoded picture becomes the pixels of its models.

    The transform is picklable and runs in the loader's workers.
    """

    @property
    def transform(self) -> Transform:
        """From an RGB picture to pixels by the models' names."""


class PictureFolder(LightningDataModule):
    """All pictures under a folder that have no label yet, sorted by their relative path.

    Args:
        root: Folder of the pictures, searched with its sub-folders.
        labels: Folder of the labels: what its manifest holds is skipped.
        skip_existing: Skip pictures that have a label; otherwise all are labelled again.
        batch_size: Pictures that the models see at once.
        workers: Processes that decode; 0 decodes between the models' batches.

    Attributes:
        paths: The pictures to label, relative to the root, in order.
        skipped: How many have a label already.
        duplicates: Files with the same bytes as an earlier one, and that one's path.
    """

    def __init__(
        self,
        root: str = "data/raw",
        labels: str = "data/labels",
        skip_existing: bool = True,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ElfError(f"data.batch_size: {batch_size} is below 1")
        if workers < 0:
            raise ElfError(f"data.workers: {workers} is negative; 0 decodes in the main process")
        self.root = root
        self.labels = labels
        self.skip_existing = skip_existing
        self.batch_size = batch_size
        self.workers = workers
        self.paths: list[str] = []
        self.skipped = 0
        self.duplicates: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        """Find the pictures, and leave out copies and what is labelled.

        Raises:
            ElfError: If the folder is missing or holds no picture.
        """
        pictures = find_pictures(self.root)
        names = [path.relative_to(self.root).as_posix() for path in pictures]
        labelled = labelled_ids(self.labels) if self.skip_existing else set()
        self.paths, self.skipped, self.duplicates = [], 0, {}
        first: dict[str, str] = {}
        for name, key in zip(names, _ids(pictures), strict=True):
            if key is not None and key in first:
                self.duplicates[name] = first[key]
            elif key in labelled:
                self.skipped += 1
            else:  # what cannot be read is left to a worker, which says why
                self.paths.append(name)
            if key is not None:
                first.setdefault(key, name)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of what :meth:`setup` found."""
        module = self.trainer.lightning_module if self.trainer else None
        if not isinstance(module, HasTransform):
            raise ElfError(
                f"model.class_path: {type(module).__name__} cannot tag pictures; take TaggerModule"
            )
        if not self.paths:  # all is labelled: that is no reason to warn
            warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks")
        reader = PictureReader(self.root, self.paths, module.transform)
        return DataLoader(
            reader,
            batch_size=self.batch_size,
            shuffle=False,
            num_workers=self.workers,
            collate_fn=collate,
            # a forked child would inherit the models' threads and the labels' lock
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,  # for one pass the same, but Lightning warns
        )


def find_pictures(root: str) -> list[Path]:
    """Return the pictures under a folder.

    Raises:
        ElfError: If the folder is missing or holds no picture.
    """
    if not Path(root).is_dir():
        raise ElfError(f"data.root: no folder {root}; give an existing folder of pictures")
    pictures = list_pictures(root)
    if not pictures:
        files = sum(len(files) for _, _, files in os.walk(root))
        found = f"holds {files} files but no picture" if files else "is empty"
        raise ElfError(f"data.root: {root} {found}; put pictures ({_suffixes()}) there")
    return pictures


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _ids(paths: Sequence[Path]) -> list[str | None]:
    """Return the id of each file, None where it cannot be read; hashing uses all cores."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_id, paths))


def _id(path: Path) -> str | None:
    try:
        return sha256_file(path)[:16]
    except OSError:
        return None
