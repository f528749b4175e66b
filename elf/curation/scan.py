"""A folder's pictures and their facts; what did not change is not opened again.

Files are known by path, size and time (:class:`elf.caching.fileindex.FileIndex`), facts by content.
Both are written as they are found: a run that was killed goes on where it was.
"""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from elf.caching.fileindex import FileIndex
from elf.caching.tagcache import ResultCache
from elf.curation.facts import VERSION, Facts, Refusal, look_at, unpack
from elf.files import replace_file
from elf.images import BadImage, filtered_warnings, id_of, picture_names

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """A picture, under whatever names.

    Attributes:
        sha256: Of its bytes.
        paths: Of the files with those bytes, relative to the folder; the first one is shown.
        facts: What its bytes say.
    """

    sha256: str
    paths: tuple[str, ...]
    facts: Facts

    @property
    def id(self) -> str:
        """Its id."""
        return id_of(self.sha256)


@dataclass
class Scan:
    """What is in a folder.

    Attributes:
        pictures: By their first path.
        bad: Files that are no pictures or cannot be read, and why.
        opened: How many files were opened.
        embedded: How many pictures have an embedding of the tagging.
    """

    pictures: list[Picture] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    opened: int = 0
    embedded: int = 0


class Thumbnails:
    """Small JPEGs in a folder, by id.

    A file that was torn by a power loss is empty, and made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._there = {
            entry.name
            for part in ([*os.scandir(folder)] if folder.is_dir() else [])
            if part.is_dir()
            for entry in os.scandir(part.path)
            if entry.stat().st_size
        }

    @staticmethod
    def path(key: str) -> str:
        """Return a thumbnail's path, relative to the folder."""
        return f"{key[:2]}/{key}.jpg"

    def __contains__(self, key: str) -> bool:
        return f"{key}.jpg" in self._there

    def write(self, key: str, data: bytes) -> None:
        """Write one.

        Raises:
            OSError: If the disk refuses.
        """
        path = self.folder / self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
        self._there.add(f"{key}.jpg")


class Scanner:
    """Finds out what is in a folder, in as many threads as there are cores.

    Args:
        root: Folder of the pictures.
        cache: Folder of the facts.
        index: Folder of what is known about files, which ``elf predict`` uses too.
        thumbnails: Where they go, if any are wanted.
    """

    def __init__(
        self, root: Path, cache: Path, index: Path, thumbnails: Thumbnails | None = None
    ) -> None:
        self.root = root
        self.thumbnails = thumbnails
        self._index = FileIndex(index)
        self._facts = ResultCache(cache / f"facts-{VERSION}")
        self._known: dict[str, Facts | Refusal] = {}
        self._claimed: set[str] = set()
        self._turn = threading.Lock()

    def scan(self) -> Scan:
        """Return what is in the folder.

        Raises:
            OSError: If a thumbnail cannot be written.
        """
        names = picture_names(self.root)
        result = Scan()
        found: dict[str, str] = {}
        for name in names:
            digest = self._index.lookup(self.root / name)
            if digest is not None and self._complete(digest):
                found[name] = digest
        fresh = [name for name in names if name not in found]
        for name, (digest, reason) in self._look(fresh):
            if digest:
                found[name] = digest
            else:
                result.bad[name] = reason
        result.opened = len(fresh)
        same: dict[str, tuple[Facts, list[str]]] = {}
        for name, digest in found.items():
            known = self._known[digest]
            if isinstance(known, Facts):
                same.setdefault(digest, (known, []))[1].append(name)
            else:
                result.bad[name] = known.reason
        for digest, (facts, paths) in same.items():
            paths.sort(key=lambda name: (Path(name).stem != id_of(digest), name))
            result.pictures.append(Picture(digest, tuple(paths), facts))
        result.pictures.sort(key=lambda picture: picture.paths)
        return result

    def _complete(self, digest: str) -> bool:
        """Whether all that is wanted of a content is there; what is known of it is noted."""
        if digest not in self._known:
            payload = self._facts.get(digest)
            known = None if payload is None else unpack(payload)
            if known is None:
                return False
            self._known[digest] = known
        if self.thumbnails is None or isinstance(self._known[digest], Refusal):
            return True
        return id_of(digest) in self.thumbnails

    def _look(self, names: list[str]) -> Iterator[tuple[str, tuple[str, str]]]:
        """Yield each file's name and its sha256, or why it could not be read."""
        workers = os.cpu_count() or 1
        with filtered_warnings(), ThreadPoolExecutor(workers) as pool:
            seen = _ahead(pool, self._open, names, 4 * workers)
            for name, (digest, known, thumbnail) in tqdm(
                seen, "looking", len(names), leave=False, unit=" pictures", disable=None
            ):
                if thumbnail and self.thumbnails is not None:
                    self.thumbnails.write(id_of(digest), thumbnail)
                if digest and known is not None and digest not in self._known:
                    self._known[digest] = known
                    if isinstance(known, Facts) or known.decoder:
                        self._facts.put(digest, known.pack())
                reason = known.reason if isinstance(known, Refusal) else ""
                yield name, (digest, reason)

    def _open(self, name: str) -> tuple[str, Facts | Refusal | None, bytes]:
        """Return a file's sha256, what its bytes say unless that is known, and a thumbnail.

        The sha256 is empty if the file could not be read.
        """
        digest = ""
        try:
            path = self.root / name
            digest = self._index.sha256(path)
            with self._turn:
                if digest in self._claimed or self._complete(digest):
                    return digest, None, b""
                self._claimed.add(digest)
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                return digest, Refusal("changed while it was read; run this again", ""), b""
            return digest, *look_at(data)
        except BadImage as error:
            passing = "not enough memory" in str(error)
            return digest, Refusal(str(error), *([""] if passing else [])), b""
        except OSError as error:
            return digest, Refusal(f"could not be read ({error.strerror or error})", ""), b""
        except MemoryError:
            return digest, Refusal("not enough memory for it", ""), b""

    def close(self) -> None:
        """Release the caches."""
        self._index.close()
        self._facts.close()


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[str], T], items: Iterable[str], count: int
) -> Iterator[tuple[str, T]]:
    """Yield items and what a function makes of them, in order; so many are made ahead."""
    waiting: deque[tuple[str, Future[T]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > count:
            first, future = waiting.popleft()
            yield first, future.result()
    for item, future in waiting:
        yield item, future.result()
