"""Shards behind a URL: what training needs of them, brought into a local folder once.

Any file system that fsspec knows will do: ``s3://``, ``gs://``, ``hf://``, ``https://``, ``sftp://``.
Every file is checked against the hash that `elf prepare` noted. What arrived whole is not fetched
again, and what was cut off goes on where it stopped.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from elf.checked import parse_checked
from elf.errors import ElfError
from elf.files import FolderLock, write_atomic
from elf.platforms import move_over, sync_file, sync_folder
from elf.preparation.caches import stamp
from elf.preparation.prepared import CACHES, PREPARED, REMEDY, shard_hashes
from elf.preparation.shards import Index, index_path, read_index, verify

CHUNK = 1 << 20  # bytes
AT_ONCE = 8
"""Files that are fetched at the same time: one waits for the network, not for a core."""

TRIES = 4
"""Tries of a file in a row that bring less than a chunk, before it is given up."""

PAUSE = 0.5
"""Seconds before the second try, and twice as long before each further one."""

STALL = 30.0
"""Seconds without a byte after which an HTTP server's answer counts as cut off."""

WHOLE = "copy there all that `elf prepare` wrote"


def is_remote(where: str) -> bool:
    """Whether a folder's name is a URL."""
    return "://" in where


def local_path(where: str, cache: str | Path) -> Path:
    """Return where shards are read from: the folder itself, or where its copy lies."""
    return Path(cache) / stamp("shards", where.rstrip("/")) if is_remote(where) else Path(where)


def fetch_shards(where: str, cache: str | Path, wait: bool = False) -> Path:
    """Bring what training reads of a remote folder of shards into the cache; return that folder.

    Args:
        where: The URL of the folder that `elf prepare` wrote.
        cache: The folder below which copies lie.
        wait: Whether to wait for another process that fetches the same, on another machine of the
            run perhaps, and not to be refused.

    Raises:
        ElfError: If the file system is unknown, a file is missing, cannot be read after some
            tries, cannot be written, or is not the one that was prepared; or if another process
            fetches the same.
    """
    remote, folder = _Remote(where), local_path(where, cache)
    try:
        with _lock(folder, wait):
            _fetch_into(folder, remote)
    except OSError as error:  # those of the remote side were dealt with
        raise ElfError(f"{folder} could not be written: {_brief(error)}") from None
    return folder


def _lock(folder: Path, wait: bool) -> FolderLock:
    while True:
        try:
            return FolderLock(folder)
        except ElfError:
            if not wait:
                raise
        time.sleep(PAUSE)


def _fetch_into(folder: Path, remote: "_Remote") -> None:
    told = remote.read(PREPARED)
    where = f"{remote.where}/{PREPARED}"
    shards = shard_hashes(parse_checked(told, where, REMEDY), where)
    fetch = _Fetch(remote, folder)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        indexes = list(threads.map(fetch.index, shards, shards.values()))
        wanted = [i for i in indexes if i.tar.startswith(tuple(f"{kind}-" for kind in CACHES))]
        missing = [index for index in wanted if not fetch.has(index)]
        size = sum(index.size for index in missing)
        silent = None if size else True
        with tqdm(desc="shards", total=size, unit="B", unit_scale=True, disable=silent) as bar:
            for _ in threads.map(lambda index: fetch.tar(index, bar), missing):
                pass
    _sweep(folder, shards)
    write_atomic(folder / PREPARED, told)  # last: it says that all is there


def _sweep(folder: Path, shards: Iterable[str]) -> None:
    """Remove shards of an earlier preparation, and what was left half fetched."""
    names = {folder / name for name in shards}
    for path in (*folder.glob("*.tar"), *folder.glob(".*.partial")):
        if path not in names:
            path.unlink()
            index_path(path).unlink(missing_ok=True)


class _Remote:
    """A folder on some file system."""

    def __init__(self, where: str) -> None:
        from fsspec.core import url_to_fs

        self.where = where.rstrip("/")
        self._block = CHUNK  # read ahead; 0 for a stream that can only be read on
        if "::" in where:
            raise ElfError(f"data.shards {where}: name one file system, not a chain of them")
        try:
            self._files, self._root = url_to_fs(self.where, **_options(self.where))
        except (ValueError, ImportError) as error:
            raise ElfError(
                f"data.shards {where}: {_brief(error)}; name one that fsspec reads"
            ) from None

    def read(self, name: str) -> bytes:
        """Return a small file's bytes."""
        return b"".join(self.chunks(name, 0, 0))

    def chunks(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """Yield a file's bytes from a position on; tries again where they are cut off.

        Args:
            name: The file.
            start: The position.
            size: Of the whole file, at the least.
        """
        pause, tries, at = PAUSE, 0, start
        while True:
            begun = at
            try:
                with self._files.open(f"{self._root}/{name}", "rb", block_size=self._block) as file:
                    _go_to(file, at)
                    while chunk := file.read(CHUNK):
                        at += len(chunk)
                        yield chunk
                if at < size:
                    raise EOFError(f"it ends after {at} of {size} bytes")
                return
            except Exception as raised:  # each file system has its own
                error = _reason(raised)
                if isinstance(error, FileNotFoundError):
                    raise ElfError(f"{self.where}/{name} is missing: {WHOLE}") from None
                if self._block and "range requests" in str(error):  # a plain HTTP server
                    self._block = 0
                    continue
                if at - begun >= CHUNK:
                    pause, tries = PAUSE, 0
                tries += 1
                if tries == TRIES:
                    raise ElfError(
                        f"{self.where}/{name} could not be read in {TRIES} tries "
                        f"({_brief(error)}): start again later, what has arrived is kept"
                    ) from None
            time.sleep(pause)
            pause *= 2


def _reason(error: Exception) -> BaseException:
    """Return why a file was not opened: fsspec calls all that an HTTP server fails at missing."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not type(cause).__module__.startswith("aiohttp"):
        return error
    missing = getattr(cause, "status", None) in (404, 410)
    return error if missing or cause is None else cause


def _options(where: str) -> dict[str, Any]:
    """Return what a file system is opened with: HTTP's own limit is five minutes a transfer."""
    if not where.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    limit = ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
    return {"client_kwargs": {"timeout": limit}}


class _Fetch:
    """Brings files of a remote folder to a local one; in several threads."""

    def __init__(self, remote: _Remote, folder: Path) -> None:
        self._remote, self._folder = remote, folder
        self._verifying = threading.Lock()  # it notes what it has verified in one file

    def index(self, name: str, sha256: str) -> Index:
        """Return a shard's index, which is fetched unless it is there."""
        tar = self._folder / name
        index = _index(tar)
        if index is None or index.sha256 != sha256:
            write_atomic(index_path(tar), self._remote.read(index_path(tar).name))
            index = _index(tar)
            if index is None or index.sha256 != sha256:
                raise self._other(name)
        return index

    def has(self, index: Index) -> bool:
        """Whether a shard is here, whole."""
        try:
            with self._verifying:
                verify([self._folder / index.tar])
        except ElfError:
            return False
        return True

    def tar(self, index: Index, bar: Any) -> None:
        """Fetch a shard, from where it was cut off if it was."""
        partial, target = self._folder / f".{index.tar}.partial", self._folder / index.tar
        begun = partial.exists()
        with open(partial, "ab") as file:
            bar.update(file.tell())
            for chunk in self._remote.chunks(index.tar, file.tell(), index.size):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            sync_file(file.fileno())
        move_over(partial, target)
        sync_folder(self._folder)
        if not self.has(index):
            bar.update(-target.stat().st_size)
            target.unlink()
            if not begun:
                raise self._other(index.tar)
            self.tar(index, bar)  # its beginning was of another preparation

    def _other(self, name: str) -> ElfError:
        return ElfError(f"{self._remote.where}/{name} is not the shard that was prepared: {WHOLE}")


def _index(tar: Path) -> Index | None:
    """Return a shard's index if there is a good one."""
    try:
        return read_index(tar)
    except ElfError:
        return None


def _go_to(file: Any, position: int) -> None:
    """Go to a position, also in a stream that can only be read on."""
    try:
        file.seek(position)
        return
    except ValueError:  # fsspec's stream of a plain HTTP server calls itself seekable
        pass
    while position:
        skipped = len(file.read(min(position, CHUNK)))
        if not skipped:
            raise EOFError(f"it ends {position} bytes before what arrived earlier")
        position -= skipped


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
