"""What was computed, on disk: each says what it was made of, so that nothing is made twice.

A batch's answers or errors carry the hash of all that decides them. What is there already is kept:
after an interruption, and, of the base, in the next evaluation of another adapter.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elf.checked import VERSION as FILES
from elf.checked import canonical, read_checked, write_checked
from elf.errors import ElfError
from elf.evaluation.plan import BASE, Variant

VERSION = 1
"""Of what is made for a key: another one makes all anew."""


class Kept:
    """The results of one evaluation.

    Args:
        folder: Its own.
        shared: Folder of the base's for all evaluations; None keeps them in its own.
    """

    def __init__(self, folder: Path, shared: Path | None) -> None:
        self.folder, self.shared = folder, shared or folder

    def once(
        self, variant: Variant, made_of: Mapping[str, Any], make: Callable[[], list[Any]]
    ) -> list[Any]:
        """Return a result: what is there of it, or else what is made now.

        A damaged file is as none.

        Args:
            variant: Whose it is.
            made_of: Plain values, all that decide it.
            make: Makes it: plain values, too.
        """
        key = hashlib.sha256(canonical({**made_of, "version": VERSION})).hexdigest()
        folder = self.shared if variant == BASE else self.folder
        path = folder / key[:2] / f"{key}.json"
        try:
            found = read_checked(path, "it is made anew")
            if found.get("key") == key:
                return list(found["values"])
        except (ElfError, OSError):
            pass
        values = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checked(path, {"version": FILES, "key": key, "values": values})
        return values
