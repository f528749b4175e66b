"""Batches of tokens: rows of one length, in an order that any number of processes shares.

Shapes: B rows, L tokens of a row.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from elf.datamodules.positioned import PositionedLoader
from elf.draws import Words
from elf.language.loss import IGNORED
from elf.training.epoch import Epoch, Indices, batches, bucket_counts, order

Batch = dict[str, Any]


class Documents(Protocol):
    """Where documents come from.

    Attributes:
        ids: (N,) of documents.
        lengths: (N,) their tokens.
        trained_counts: (N,) of these the ones that are trained on.
    """

    ids: Words
    lengths: Indices
    trained_counts: Indices

    def document(self, number: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Return the tokens of a document, and which are trained on as labels."""


class Rows:
    """Rows of tokens, each of one document, or of several packed ones.

    Args:
        documents: Where they come from.
        members: The documents of each row.
        edges: (rows,) tokens that each row has, padding included.
        pad: The token that fills a row up.
        packed: Whether rows say where their documents begin.
    """

    def __init__(
        self,
        documents: Documents,
        members: Sequence[Indices],
        edges: Indices,
        pad: int,
        packed: bool,
    ) -> None:
        self.documents, self.members, self.edges = documents, members, edges
        self.pad, self.packed = pad, packed
        self.trained = np.array(
            [documents.trained_counts[each].sum() for each in members], np.int64
        )

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def most(self) -> int:
        """The most documents that a row has, and one for what fills it up."""
        return 1 + max((len(each) for each in self.members), default=0)

    def name(self, row: int) -> str:
        """Return what a row is called: the id of its first document."""
        return f"{int(self.documents.ids[self.members[row][0]]):016x}"

    def batch(self, rows: npt.ArrayLike) -> Batch:
        """Return rows of one length as tensors.

        Returns:
            ``tokens`` (B, L); ``labels`` (B, L), the token that follows each, or ``IGNORED``;
            ``id``, B names; ``members``, the documents of each row; ``seen``, their tokens. Of
            packed rows also ``positions`` (B, L) within documents, ``documents`` (B, L) their
            numbers, and ``borders`` where each begins in all rows together, as many in each batch.
        """
        chosen = [int(each) for each in np.asarray(rows)]
        length = int(self.edges[chosen[0]])
        shape = (len(chosen), length)
        tokens = np.full(shape, self.pad, np.int64)
        labels = np.full(shape, IGNORED, np.int64)
        positions, numbers = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        borders: list[int] = []
        seen = 0
        for place, row in enumerate(chosen):
            at = 0
            for number, document in enumerate(self.members[row]):
                words, trained = self.documents.document(int(document))
                end = at + len(words)
                tokens[place, at:end] = words
                labels[place, at : end - 1] = np.where(trained[1:], words[1:], IGNORED)
                positions[place, at:end] = np.arange(len(words))
                numbers[place, at:end] = number
                borders.append(place * length + at)
                at = end
            seen += at
            if at < length:  # a document of its own, which nobody learns
                positions[place, at:] = np.arange(length - at)
                numbers[place, at:] = len(self.members[row])
                borders.append(place * length + at)
        batch: Batch = {
            "tokens": torch.from_numpy(tokens),
            "labels": torch.from_numpy(labels),
            "id": [self.name(row) for row in chosen],
            "members": [self.members[row].tolist() for row in chosen],
            "seen": seen,
        }
        if self.packed:
            # Ends that stand again are documents of no tokens: each batch has one shape.
            places = np.full(len(chosen) * self.most + 1, len(chosen) * length, np.int32)
            places[: len(borders)] = borders
            batch |= {
                "positions": torch.from_numpy(positions),
                "documents": torch.from_numpy(numbers),
                "borders": torch.from_numpy(places),
            }
        return batch


class _Steps:
    """Where a loader stands, in batches.

    Attributes:
        epoch: From 0.
        batch: Batches of it that were handed over.
        length: Batches of an epoch.
        seed: Of the order.
        global_batch: Rows of an optimizer step, over all processes and batches of an accumulation.
    """

    def __init__(self, length: int, seed: int, global_batch: int) -> None:
        self.epoch = self.batch = 0
        self.length, self.seed, self.global_batch = length, seed, global_batch


class TextLoader(PositionedLoader[Batch]):
    """The training batches of one rank.

    An optimizer step's rows are the same, however they are split into micro-batches and processes,
    and each batch says what its errors count for the mean over all of the step's tokens.

    Args:
        rows: What is trained on.
        batch_size: Rows a batch and process.
        accumulation: Batches of an optimizer step.
        seed: Of the order.
        index_hash: Identifies the data, for the state.
        world: Number of ranks.
        rank: This rank.
        drop: Leave out what does not fill a step, instead of filling it.
        options: What else the batches depend on, by its key in the configuration, for the state.

    Attributes:
        waited: Seconds for which batches were waited for so far.
        handed: When the last batch was handed over, by ``time.perf_counter``.
    """

    index_remedy = "restore data.files and the model's tokenizer and run `elf prepare`"

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        accumulation: int,
        seed: int,
        index_hash: str,
        world: int = 1,
        rank: int = 0,
        drop: bool = False,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.rows = rows
        self.batch_size, self.accumulation = batch_size, accumulation
        self.world, self.rank, self.drop = world, rank, drop
        self.buckets = np.unique(rows.edges, return_inverse=True)[1].astype(np.int64)
        step = batch_size * accumulation * world
        steps = batches(bucket_counts(self.buckets, None), step, drop)
        super().__init__(_Steps(steps * accumulation, seed, step), index_hash, options)
        self._plan: tuple[int, Epoch] | None = None
        self.waited = self.handed = 0.0

    def _next(self) -> Batch:
        start = time.perf_counter()
        at = self.position
        epoch, batch = (at.epoch, at.batch) if at.batch < at.length else (at.epoch + 1, 0)
        step, part = divmod(batch, self.accumulation)
        rows = self._order(epoch).rows[step].astype(np.int64)
        each = self.batch_size * self.world
        mine = rows[part * each : (part + 1) * each][self.rank :: self.world]
        found = self.rows.batch(mine)
        # the mean over rows, batches and processes of (errors × weight) is then that over tokens
        weight = len(rows) / max(int(self.rows.trained[rows].sum()), 1)
        found["token_weight"] = torch.full((len(mine),), weight)
        self.handed = time.perf_counter()
        self.waited += self.handed - start
        return found

    def _order(self, epoch: int) -> Epoch:
        if self._plan is None or self._plan[0] != epoch:
            at = self.position
            plan = order(self.buckets, at.global_batch, at.seed, epoch, self.drop, None)
            self._plan = epoch, plan
        return self._plan[1]

    def close(self) -> None:
        """Do nothing: all is mapped into memory."""


class HeldOutText:
    """The validation batches of one rank: each document once, in rows of its own.

    Args:
        rows: What is measured.
        batch_size: Rows a batch, at most.
        world: Number of ranks.
        rank: This rank; it gets every ``world``-th batch, and the first if there is none for it.
        kind: What its batches say of themselves under ``kind``.
    """

    def __init__(
        self, rows: Rows, batch_size: int, world: int = 1, rank: int = 0, kind: str = "held_out"
    ) -> None:
        self.rows, self.kind = rows, kind
        plan: list[Indices] = []
        for edge in np.unique(rows.edges):
            members = np.flatnonzero(rows.edges == edge)
            plan += [members[at : at + batch_size] for at in range(0, len(members), batch_size)]
        self._plan = plan[rank::world] or plan[:1]

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._plan:
            yield {**self.rows.batch(rows), "kind": self.kind}

    def close(self) -> None:
        """Do nothing: all is mapped into memory."""
