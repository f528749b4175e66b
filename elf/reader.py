"""From picture files to batches of pixels, decoded ahead by threads.

Threads do: Pillow lets go of Python's lock while it decodes and resizes, and so does hashing.
They start at once, and pixels go to the models without a copy between processes.
"""

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from elf.images import BadImage, id_of, set_warning_filters

Pixels = dict[str, NDArray[np.uint8]]

MAX_CACHED = 256
"""Pictures in a batch whose results are all cached: they cost next to nothing."""

BEGUN = 2
"""Batches that are handed to the models ahead: they go on while files are waited for."""


class Transform(Protocol):
    """How a picture file becomes the pixels of the models."""

    def open(self, data: bytes, names: Sequence[str]) -> tuple[Pixels, tuple[int, int]]:
        """Return the pixels for the models of those names, and the upright picture's size (px).

        Raises:
            BadImage: If it is no whole picture.
        """


@dataclass(frozen=True, slots=True)
class Task:
    """A picture file to be read.

    Attributes:
        path: Relative to the folder of the pictures.
        sha256: Of its bytes, if that is known; else empty.
        wants: The models that need its pixels; with none the file is not opened.
    """

    path: str
    sha256: str
    wants: tuple[str, ...]


class Item(TypedDict):
    """One picture file as the reader saw it.

    ``error`` is the reason why it cannot be used, or empty; ``id`` and ``sha256`` are empty if
    not even its bytes could be read. ``width`` and ``height`` are px of the upright picture, 0 if
    it was not opened. ``wants`` names the models that have a row for it among the pixels.
    """

    id: str
    path: str
    sha256: str
    width: int
    height: int
    error: str
    wants: tuple[str, ...]


Sample = tuple[Item, Pixels]
"""A picture file and its pixels by the models' names."""


class Batch(TypedDict):
    """Pictures and their pixels: for each model one row for each item that wants it, in order.

    If the models were started, ``seen`` is what they will give and ``outputs`` what will be made of
    it.
    """

    items: list[Item]
    pixels: Pixels
    seen: NotRequired[Future[Any]]
    outputs: NotRequired[Future[Any]]


@dataclass(frozen=True)
class PictureReader:
    """Reads picture files and turns every failure into an item."""

    root: str
    transform: Transform

    def read(self, task: Task) -> Sample:
        """Return a picture's item and its pixels by model; no pixels if there is an error."""
        item = Item(
            id=id_of(task.sha256),
            path=task.path,
            sha256=task.sha256,
            width=0,
            height=0,
            error="",
            wants=task.wants,
        )
        if not task.wants:
            return item, {}
        try:
            data = (Path(self.root) / task.path).read_bytes()
            item["sha256"] = hashlib.sha256(data).hexdigest()
            item["id"] = id_of(item["sha256"])
            pixels, size = self.transform.open(data, task.wants)
            item["width"], item["height"] = size
            return item, pixels
        except BadImage as error:
            item["error"] = str(error)
        except OSError as error:
            item["error"] = f"could not be read ({error.strerror or error})"
        except MemoryError:
            item["error"] = "not enough memory for it"
        return item | {"wants": ()}, {}


def collate(samples: Sequence[Sample]) -> Batch:
    """Return what a :class:`PictureReader` gave as one batch."""
    names = dict.fromkeys(name for _, pixels in samples for name in pixels)
    return Batch(
        items=[item for item, _ in samples],
        pixels={
            name: np.stack([pixels[name] for _, pixels in samples if name in pixels])
            for name in names
        },
    )


class PictureLoader:
    """Batches of pictures in the order of their tasks.

    At most two batches are read ahead, and two more lie with the models.

    Args:
        reader: Reads a picture.
        tasks: The pictures.
        batch_size: How many the models see at once.
        workers: Threads that read; 0 reads in the caller's.
        begin: Called with a batch before the ones in front of it are handed over: the models then
            work on it while rules and files are about the others.

    Attributes:
        waited: Seconds for which the models had to wait for pictures.
    """

    def __init__(
        self,
        reader: PictureReader,
        tasks: Sequence[Task],
        batch_size: int,
        workers: int,
        begin: Callable[[Batch], None] | None = None,
    ) -> None:
        self.reader = reader
        self.batches = list(split(tasks, batch_size))
        self.workers = workers
        self.begin = begin
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        with contextlib.closing(self._read()) as batches:
            if self.begin is None:
                yield from batches
                return
            begun: deque[Batch] = deque()
            for batch in batches:
                self.begin(batch)
                begun.append(batch)
                if len(begun) > BEGUN:
                    yield begun.popleft()
            yield from begun

    def _read(self) -> Generator[Batch, None, None]:
        set_warning_filters()  # for good: a reading that is not finished would set them back late
        if self.workers == 0:
            for tasks in self.batches:
                start = time.perf_counter()
                batch = collate([self.reader.read(task) for task in tasks])
                self.waited += time.perf_counter() - start
                yield batch
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        read = self.reader.read
        ahead: deque[Future[Batch]] = deque()
        try:
            for tasks in self.batches:
                # no thread for what is not opened
                samples = [pool.submit(read, task) if task.wants else read(task) for task in tasks]
                # It waits for what began before it, so that it cannot wait for ever.
                ahead.append(pool.submit(_collect, samples))
                if len(ahead) > 2:
                    yield self._next(ahead)
            while ahead:
                yield self._next(ahead)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _next(self, ahead: deque[Future[Batch]]) -> Batch:
        start = time.perf_counter()
        batch = ahead.popleft().result()
        self.waited += time.perf_counter() - start
        return batch


def _collect(samples: Sequence[Future[Sample] | Sample]) -> Batch:
    return collate([s.result() if isinstance(s, Future) else s for s in samples])


def split(tasks: Sequence[Task], batch_size: int) -> Iterator[list[Task]]:
    """Yield batches with at most ``batch_size`` pictures to be read, and some that are not."""
    batch: list[Task] = []
    fresh = 0
    for task in tasks:
        if batch and (len(batch) >= MAX_CACHED or (task.wants and fresh >= batch_size)):
            yield batch
            batch, fresh = [], 0
        batch.append(task)
        fresh += bool(task.wants)
    if batch:
        yield batch
