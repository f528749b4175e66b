"""Tokens that `elf prepare` cached, mapped into memory: any number of documents opens at once.

The arrays lie in a folder of their own, named by what they hold, and ``meta.json`` says which. It
is replaced in one instant when new ones are whole, so that a kill leaves the old or the new.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elf.checked import canonical, read_checked
from elf.draws import Words
from elf.errors import ElfError
from elf.language.arrays import Array, map_array
from elf.language.settings import TextSettings
from elf.stamps import Stamps
from elf.training.epoch import Indices

META = "meta.json"
NEW = ".new"  # what is being written
FOLDER = re.compile(r"[0-9a-f]{16}")
REMEDY = "run `elf prepare` again"
FORMAT = 1  # of the arrays and of how documents are made; a change makes all of them anew
Mask = npt.NDArray[np.bool_]


def index_hash(digests: Mapping[str, str]) -> str:
    """Return the hash that stands for all documents, from the sha256 of each array in hex."""
    return hashlib.sha256(canonical(dict(digests))).hexdigest()


class TokenStore:
    """Documents of tokens.

    Attributes:
        folder: Where it lies.
        meta: All that is written down about it.
        index_hash: Of ids, lengths, masks, tokens and split; the same for the same documents.
        ids: (N,) ids of the documents.
        lengths: (N,) their tokens.
        trained_counts: (N,) of these the ones that are trained on.
        held_out: (N,) which are kept for validation.
        train: Indices of the others.
        validation: Indices of those.
    """

    ids: Words
    lengths: Indices
    trained_counts: Indices
    held_out: Mask
    train: Indices
    validation: Indices

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta
        self.index_hash: str = meta["index_hash"]
        arrays = {name: _map(folder, meta, name) for name in meta["arrays"]}
        self._tokens, self._trained = arrays["tokens"], arrays["trained"]
        self._offsets: Indices = arrays["offsets"]
        self.ids = arrays["ids"]
        self.lengths = np.diff(self._offsets)
        self.trained_counts = arrays["trained_counts"].astype(np.int64)
        self.held_out = arrays["held_out"]
        self.train = np.flatnonzero(~self.held_out)
        self.validation = np.flatnonzero(self.held_out)

    @classmethod
    def open(cls, folder: str | Path, settings: TextSettings, tokenizer_hash: str) -> "TokenStore":
        """Return the documents in a folder.

        All arrays are hashed once; then their sizes, times and inodes vouch for them.

        Args:
            folder: Where `elf prepare` wrote.
            settings: That they must have been made with.
            tokenizer_hash: Of the tokenizer that they must have been made with.

        Raises:
            ElfError: If they are missing, damaged, or made with something else.
        """
        folder = Path(folder)
        meta = read_checked(folder / META, REMEDY)
        made = meta.get("format"), meta.get("settings"), meta.get("tokenizer")
        for what, wanted, has in zip(
            ("another version of elf", None, "another tokenizer or chat template"),
            (FORMAT, settings.as_json(), tokenizer_hash),
            made,
            strict=True,
        ):
            if has != wanted:
                what = what or _difference(has or {}, settings.as_json())
                raise ElfError(f"{folder} was made with {what}: {REMEDY}")
        try:
            _verify(folder, meta)
            return cls(folder, meta)
        except (KeyError, TypeError, AttributeError):
            raise ElfError(f"{folder / META} is no list of token arrays: {REMEDY}") from None

    def __len__(self) -> int:
        return len(self.ids)

    def document(self, number: int) -> tuple[Indices, Mask]:
        """Return the tokens of a document, and which of them are trained on as labels."""
        part = slice(int(self._offsets[number]), int(self._offsets[number + 1]))
        return self._tokens[part].astype(np.int64), self._trained[part].copy()

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path, dict[str, Any]]]:
        return TokenStore, (self.folder, self.meta)  # workers map the files, no copy travels


def _difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return which setting differs first, with the value it had."""
    if not isinstance(made, Mapping):
        return "settings that are none"
    key = next((key for key in wanted if made.get(key) != wanted[key]), "settings")
    if key == "chat_template":
        return "another data.chat_template"
    had = " ".join(str(made.get(key)).split())[:60]
    return f"data.{key} {had} and not {wanted.get(key)}"


def _path(folder: Path, meta: Mapping[str, Any], name: str) -> Path:
    inner = str(meta["folder"])
    if not FOLDER.fullmatch(inner):
        raise ElfError(f"{folder / META} names the folder {inner[:40]!r}, which is none of its own")
    return folder / inner / f"{name}.npy"


def sweep(folder: Path) -> None:
    """Remove what a killed run left: half-written arrays, and those that are not the store's."""
    kept = ""
    with contextlib.suppress(ElfError):
        kept = str(read_checked(folder / META, REMEDY).get("folder"))
    for path in folder.iterdir():
        if path.name == NEW or (FOLDER.fullmatch(path.name) and path.name != kept):
            shutil.rmtree(path, ignore_errors=True)  # Windows keeps what a training has open
        elif path.name.startswith(".") and path.suffix == ".tmp":
            path.unlink(missing_ok=True)


def _map(folder: Path, meta: Mapping[str, Any], name: str) -> Array:
    path = _path(folder, meta, name)
    array = meta["arrays"][name]
    try:
        return map_array(path, array["dtype"], array["count"])
    except FileNotFoundError:
        raise ElfError(f"{path} is missing: {REMEDY}") from None
    except (OSError, ValueError) as error:
        raise ElfError(f"{path} is cut or damaged ({error}): {REMEDY}") from None


def _verify(folder: Path, meta: Mapping[str, Any]) -> None:
    stamps = Stamps(folder)
    for name, array in meta["arrays"].items():
        values = _map(folder, meta, name)
        path = _path(folder, meta, name)
        if not stamps.holds(name, path.stat(), array["sha256"], partial(_sha256, values)):
            raise ElfError(f"{path} is damaged (its sha256 is another): {REMEDY}")
    stamps.keep()


def _sha256(values: Array) -> str:
    return hashlib.sha256(values.data).hexdigest()
