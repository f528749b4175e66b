"""What vouches for files that were hashed once: their size, times and inode, noted beside them."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elf.checked import canonical
from elf.files import write_atomic

STAMPS = ".verified.json"


class Stamps:
    """The note of one folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STAMPS
        self._noted: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(self._path.read_bytes())
            if isinstance(noted, dict):
                self._noted = noted
        self._known = dict(self._noted)

    def holds(
        self, name: str, status: os.stat_result, sha256: str, hashed: Callable[[], str]
    ) -> bool:
        """Whether a file has a sha256: by the note that it had, or else by hashing it.

        Args:
            name: The file's.
            status: The file's.
            sha256: In hex.
            hashed: Returns the file's, in hex.
        """
        # ctime and inode cannot be set back by a copy or an edit that keeps size and mtime
        times = [status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        stamp = [sha256, status.st_size, *times]
        if self._known.get(name) != stamp:
            if hashed() != sha256:
                return False
            self._known[name] = stamp
        return True

    def keep(self) -> None:
        """Write the note, if it says more than before."""
        if self._known != self._noted:
            with contextlib.suppress(OSError):  # a read-only folder is hashed each time
                write_atomic(self._path, canonical(self._known))
