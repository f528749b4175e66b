"""Generated pictures on disk: each says what it was made of, so that none is made twice.

A picture carries the hash of all that decides it. One that is there already and says the same is
kept: after an interruption, at a second look with other metrics, and, of the base, in the next
evaluation of another adapter.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from elf.errors import ElfError
from elf.evaluation.plan import BASE, Variant
from elf.files import atomic_path
from elf.images import write_png

KEY = "elf"
VERSION = 1
"""Of what is drawn for a key: another one makes all pictures anew."""


def picture_key(made_of: Mapping[str, Any], prompt: str, seed: int) -> str:
    """Return the hash of what decides a picture.

    Args:
        made_of: Plain values: the networks' hashes, the strength, how is sampled.
        prompt: The prompt.
        seed: The seed of the starting noise.
    """
    whole = {**made_of, "prompt": prompt, "seed": seed, "version": VERSION}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


class PictureStore:
    """The pictures of one evaluation.

    Args:
        folder: The evaluation's own.
        shared: Folder of base pictures for all evaluations; None keeps none.
    """

    def __init__(self, folder: Path, shared: Path | None) -> None:
        self.folder, self.shared = folder, shared

    def file(self, variant: Variant, number: int) -> str:
        """Return the name of a picture's file, relative to the evaluation's folder."""
        return f"pictures/{variant.folder}/{number:04d}.png"

    def path(self, variant: Variant, number: int) -> Path:
        """Return a picture's file."""
        return self.folder / self.file(variant, number)

    def has(self, variant: Variant, number: int, key: str) -> bool:
        """Whether a picture is there, whole, and made of the same; one of the base is fetched."""
        path = self.path(variant, number)
        if _says(path, key):
            return True
        if variant == BASE and self.shared is not None and _says(self._shared(key), key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                shutil.copyfile(self._shared(key), temporary)
            return True
        return False

    def add(self, variant: Variant, number: int, key: str, picture: Image.Image) -> None:
        """Write a picture."""
        paths = [self.path(variant, number)]
        if variant == BASE and self.shared is not None:
            paths.append(self._shared(key))
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, picture, {KEY: key})

    def read(self, variant: Variant, number: int) -> Image.Image:
        """Return a picture.

        Raises:
            ElfError: If it is not there: each process draws its share into the same folder.
        """
        path = self.path(variant, number)
        try:
            with Image.open(path) as picture:
                return picture.convert("RGB")
        except FileNotFoundError:
            raise ElfError(
                f"{path} is missing; nodes need one trainer.default_root_dir, which they share"
            ) from None

    def _shared(self, key: str) -> Path:
        assert self.shared is not None
        return self.shared / key[:2] / f"{key}.png"


def _says(path: Path, key: str) -> bool:
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(path) as picture:
        picture.load()  # a damaged one fails here
        return picture.info.get(KEY) == key
    return False
