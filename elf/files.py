"""Files that survive a crash: atomic writes, append logs, locks."""

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from elf.counted import counted
from elf.errors import ElfError
from elf.platforms import (
    in_forked_children,
    lock,
    move_over,
    open_to_read,
    sync_file,
    sync_folder,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def explain_disk_errors(where: str | Path, problem: str, remedy: str) -> Iterator[None]:
    """Turn an OSError into one line: its file, what could not be done, the reason, the way out.

    Args:
        where: What is named if the error names no file.
        problem: What could not be done.
        remedy: What is safe, and how to go on.

    Raises:
        ElfError: In place of it; a pipe that a reader of the output closed stays as it is.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        place = error.filename or where
        raise ElfError(f"{place}: {problem} ({error.strerror or error}); {remedy}") from error


@contextlib.contextmanager
def explain_failed_writes(
    where: str | Path, safe: Collection[str], one: str, more: str
) -> Iterator[None]:
    """Turn an OSError of what appends to logs into one line that says how much is safe.

    Args:
        where: What is written.
        safe: What is, when it happens.
        one: What one of them is called, with its verb: "label is".
        more: What several are called.

    Raises:
        ElfError: In place of it.
    """
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in _FULL else "mend that"
        raise ElfError(
            f"{where}: could not write ({error.strerror or error}); "
            f"{counted(len(safe), one, more)} safe: "
            f"{remedy}, then run the same command again to go on"
        ) from error


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder that becomes the target when the block ends.

    The target holds either its old content or the whole new one, at every instant: the temporary
    file is synced, renamed over the target, and the folder is synced. If the block raises, the
    temporary file is removed and the target is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        os.chmod(temporary, 0o666 & ~_umask())
        yield temporary
        with open(temporary, "rb+") as file:
            sync_file(file.fileno())
        move_over(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a whole file atomically; text is UTF-8, its line ends are left as they are."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def replace_file(path: str | Path, data: bytes) -> None:
    """Write a whole file that a kill cannot tear: its name holds the old bytes or the new ones.

    Nothing is synced: after a power loss the file may be empty or hold zeros. Many files are
    written so and then settled at once by :func:`elf.platforms.sync_disks`.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        move_over(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_small(path: str) -> bytes:
    """Return the bytes of a file that is likely small, in half the time of :func:`open`."""
    descriptor = open_to_read(path)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 14), b""))
    finally:
        os.close(descriptor)


def sha256_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderLock:
    """An exclusive lock on a folder that names its owner; the system frees it when the owner dies.

    Raises:
        ElfError: If another process holds it, with that process's id.
    """

    def __init__(self, folder: str | Path, name: str = ".lock") -> None:
        self.path = Path(folder) / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")
        try:
            lock(self._file)
        except OSError:
            self._file.seek(0)
            owner = self._file.read(32).decode(errors="replace").strip() or "unknown"
            self._file.close()
            raise ElfError(
                f"{self.path.parent} is being written by another process (pid {owner}): "
                "wait for it or stop it, then start again"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())
        self._file.flush()
        _HELD.add(self)

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _let_go() -> None:
    """Close a forked process's copies, or the locks would outlive their owner in its workers."""
    for held in _HELD:
        held.close()


in_forked_children(_let_go)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return a line of a log as an object, or None if it is not one whole JSON object.

    The line's end may be missing: no object that was cut shorter is whole.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_text(value: object) -> bool:
    """Whether a value of JSON is a text that UTF-8 can hold: JSON can name half a character."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def iterate_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON Lines file, one in memory at a time; a torn last line is not one.

    Raises:
        ElfError: If a line other than the last is damaged, with its number.
    """
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            record = parse_line(line)
            if record is None:
                if not line.endswith(b"\n"):
                    return  # an interrupted write: never acknowledged
                raise ElfError(
                    f"{path}, line {number}: not a JSON object; mend or delete that line"
                )
            yield record


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file; a torn last line is left out.

    Raises:
        ElfError: If a line other than the last is damaged, with its number.
    """
    return list(iterate_log(path))


class AppendLog:
    """A JSON Lines file to which one process appends whole lines.

    A torn last line that a crash left is mended when the log is opened: cut off, or ended if the
    end alone is missing. A damaged line before it is an error, never thrown away. A failed write
    (a full disk) is rolled back to the last whole record before the error is raised.

    Args:
        path: The file.
        keep_records: Read what it holds; a long log's owner reads it piece by piece instead.

    Attributes:
        records: What the log held when it was opened.
    """

    def __init__(self, path: str | Path, keep_records: bool = True) -> None:
        self.path = Path(path)
        self._lock = FolderLock(self.path.parent, f".{self.path.name}.lock")
        try:
            self.records = read_log(self.path) if keep_records else []
            # Unbuffered: what append() wrote is in the system's hands when it returns, so that a
            # kill -9 of this process cannot lose it; sync() guards against power loss.
            self._file = open(self.path, "ab", buffering=0)
            self._size = self._mend_torn_tail()
            self._synced = -1
        except BaseException:
            self._lock.close()
            raise

    def _mend_torn_tail(self) -> int:
        total = size = self.path.stat().st_size
        tail = b""
        with open(self.path, "rb") as file:
            while size and b"\n" not in tail:
                file.seek(size := max(0, size - 65536))
                tail = file.read(total - size)
        size += tail.rfind(b"\n") + 1
        if parse_line(tail[tail.rfind(b"\n") + 1 :]) is not None:
            self._file.write(b"\n")
            return total + 1
        self._file.truncate(size)
        return size

    def append(self, *records: dict[str, Any]) -> None:
        """Append records, each as one line, all or none of them."""
        data = _lines(records)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(data)

    def rewrite(self, records: Iterable[dict[str, Any] | bytes]) -> None:
        """Replace the whole log atomically: it holds either the old records or the new ones.

        Args:
            records: One after the other; bytes are a whole line and written as they are.
        """
        self._file.close()  # Windows replaces no open file
        try:
            with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
                for record in records:
                    file.write(record if isinstance(record, bytes) else _line(record))
        finally:
            self._file = open(self.path, "ab", buffering=0)
            self._size = self.path.stat().st_size
            self._synced = -1

    def sync(self) -> None:
        """Make everything appended so far survive a power loss."""
        if self._synced != self._size:
            sync_file(self._file.fileno())
            self._synced = self._size

    def close(self) -> None:
        """Sync, close and release the log."""
        if not self._file.closed:
            try:
                self.sync()
            finally:  # a failing disk must not keep the log locked
                self._file.close()
                self._lock.close()

    def __enter__(self) -> "AppendLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(map(_line, records))


def _line(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is no UTF-8 (a lone surrogate): escaped
        return json.dumps(record).encode() + b"\n"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
