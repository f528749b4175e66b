"""Writes what a :class:`elf.language.store.TokenStore` reads: all of it, or nothing."""

import hashlib
import shutil
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from elf.checked import VERSION, canonical, write_checked
from elf.language.arrays import ArrayWriter
from elf.language.documents import Document
from elf.language.store import FORMAT, META, NEW, index_hash, sweep
from elf.language.textsummary import LeftOut, TextSummary
from elf.platforms import move_over, sync_folder
from elf.preparation.splitting import held_out_words


class StoreWriter:
    """Writes documents one after the other.

    Args:
        folder: Of the store; locked by the caller.
        vocabulary: One more than the largest token.

    Attributes:
        documents: How many there are.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        self._folder, self._new = folder, folder / NEW
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir(parents=True)
        self._writers: dict[str, ArrayWriter] = {}
        self._tokens = self._open("tokens", np.uint16 if vocabulary <= 1 << 16 else np.uint32)
        self._trained = self._open("trained", np.bool_)
        self._ids, self._rows = array("Q"), array("Q")
        self._lengths, self._counts = array("I"), array("I")

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self._ids)

    def add(self, name: str, row: str, document: Document) -> None:
        """Append a document.

        Args:
            name: Its id.
            row: The id of its row, which decides whether it is held out.
            document: The document.
        """
        self._tokens.append(document.tokens)
        self._trained.append(document.trained)
        self._ids.append(int(name, 16))
        self._rows.append(int(row, 16))
        self._lengths.append(len(document))
        self._counts.append(int(np.count_nonzero(document.trained)))

    def summary(
        self,
        held_out: float,
        rows: int,
        left_out: list[LeftOut],
        shortened: list[LeftOut],
        notes: list[str],
    ) -> TextSummary:
        """Write the small arrays; return what was done.

        Args:
            held_out: The share of rows kept for validation.
            rows: For the summary.
            left_out: For the summary.
            shortened: For the summary.
            notes: For the summary.
        """
        lengths = np.array(self._lengths, np.int64)
        held = held_out_words(np.array(self._rows, np.uint64), held_out)
        self._open("offsets", np.int64).append(np.concatenate([[0], np.cumsum(lengths)]))
        self._open("ids", np.uint64).append(np.array(self._ids, np.uint64))
        self._open("held_out", np.bool_).append(held)
        self._open("trained_counts", np.uint32).append(np.array(self._counts, np.uint32))
        return TextSummary(
            rows=rows,
            documents=len(lengths),
            tokens=int(lengths.sum()),
            trained=sum(self._counts),
            longest=int(lengths.max()),
            median=int(np.median(lengths)),
            held_out=int(np.count_nonzero(held)),
            left_out=left_out,
            shortened=shortened,
            notes=notes,
        )

    def finish(self, **meta: Any) -> None:
        """Let the arrays be the store's, in one instant, with what is to be written down of them.

        Args:
            **meta: What is to be written down.
        """
        arrays, hashes = {}, {}
        for name, writer in self._writers.items():
            writer.close()
            hashes[name] = writer.digest.hexdigest()
            dtype = writer.dtype.str
            arrays[name] = {"dtype": dtype, "count": writer.count, "sha256": hashes[name]}
        sync_folder(self._new)
        meta |= {"version": VERSION, "format": FORMAT, "arrays": arrays}
        meta["index_hash"] = index_hash(hashes)
        meta["folder"] = hashlib.sha256(canonical(meta)).hexdigest()[:16]
        final = self._folder / str(meta["folder"])
        shutil.rmtree(final, ignore_errors=True)  # there only if it was found damaged
        move_over(self._new, final)
        sync_folder(self._folder)
        write_checked(self._folder / META, meta)
        sweep(self._folder)

    def _open(self, name: str, dtype: Any) -> ArrayWriter:
        self._writers[name] = ArrayWriter(self._new / f"{name}.npy", dtype)
        return self._writers[name]

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.abandon()
        shutil.rmtree(self._new, ignore_errors=True)
