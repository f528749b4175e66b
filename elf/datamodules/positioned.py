"""Batches of an epoch that can be stopped anywhere and resumed exactly.

Lightning (2.6) keeps the state of any loader with ``state_dict`` and ``load_state_dict``, and what
it does with it decides the shape of ``PositionedLoader``:

- It leaves an iterable that is no ``DataLoader`` alone: no sampler is replaced in DDP, whatever
  ``use_distributed_sampler`` says.
- It calls ``iter()`` to check that the loader is iterable, again when it sets the loop up, and
  again at each epoch, except just after a resume. So ``iter()`` must cost nothing and change
  nothing: it is a generator here, which reads the position when its first batch is asked for.
- With a ``__len__`` it fetches a batch only when it trains on it; without, one ahead, and that one
  would be lost. ``__len__`` must be the whole epoch's after a resume too, for Lightning adds the
  batches it had counted before.
- It saves the state of rank 0 and gives it to every rank, so the state knows no ranks.
- At the end of an epoch it may ask for a new iterator before it takes the old one's end. So an
  epoch ends when its last batch is handed over, not when the iterator is exhausted.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from elf.errors import ElfError

T = TypeVar("T")
SHARES = {"caption_dropout", "prior_preservation"}


class Position(Protocol):
    """Where a loader stands.

    Attributes:
        epoch: From 0.
        batch: Batches of it that were handed over.
        length: Batches of an epoch.
        seed: Of the order.
        global_batch: Samples in a batch over all ranks.
    """

    epoch: int
    batch: int
    length: int
    seed: int
    global_batch: int


class PositionedLoader(Generic[T]):
    """Batches of one rank, epoch after epoch, from a position that can be saved.

    An iterator gives the next ``len(loader)`` batches from where the loader stands, across the end
    of the epoch if it began within. So under ``limit_train_batches`` a Lightning epoch is just the
    next so many batches, and a resume is exact there too.

    Args:
        position: Where it stands.
        index_hash: Identifies the data, for the state.
        options: What else the draws depend on, by its key in the configuration, for the state.
    """

    index_remedy = (
        "restore pictures, labels and models and run `elf prepare`, and restore what data.sets say "
        "of repeats, flip, weight and caption_dropout"
    )
    """How the data of a checkpoint are brought back."""

    def __init__(self, position: Position, index_hash: str, options: Mapping[str, Any]) -> None:
        self.position = position
        self.index_hash = index_hash
        self.options = dict(options)

    @abstractmethod
    def _next(self) -> T:
        """Return the batch behind those handed over."""

    def _moved(self) -> None:
        """Forget what was read ahead: it is of elsewhere."""

    def __len__(self) -> int:
        return self.position.length

    def __iter__(self) -> Iterator[T]:
        at = self.position
        for _ in range(len(self)):
            batch = self._next()
            if at.batch >= at.length:
                at.epoch, at.batch = at.epoch + 1, 0
            at.batch += 1  # handed over: what workers read ahead does not count
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what the rest of the run can only be the same with."""
        return {
            "epoch": self.position.epoch,
            "batch": self.position.batch,
            "seed": self.position.seed,
            "index": self.index_hash,
            "global_batch": self.position.global_batch,
            "options": self.options,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Workers and ranks may differ from then.

        Raises:
            ElfError: If the data, the global batch, the seed or what is drawn are others than when
                it was saved.
        """
        mine = self.state_dict()
        self._compare_options(state.get("options"))
        for key, what, remedy in (
            ("index", "prepared data", self.index_remedy),
            ("global_batch", "global batch", "set data.batch_size × devices to the old product"),
            ("seed", "data.seed", "set it back"),
        ):
            if state[key] != mine[key]:
                raise ElfError(
                    f"this checkpoint was trained with {what} {state[key]}, now it is "
                    f"{mine[key]}, so the run cannot be resumed: {remedy}, or start a new run"
                )
        self.position.epoch, self.position.batch = state["epoch"], state["batch"]
        self._moved()

    def _compare_options(self, saved: Mapping[str, Any] | None) -> None:
        if saved is None:  # a state from before captions were drawn says nothing of the shares
            saved = {key: self.options[key] for key in SHARES & self.options.keys()}
        for key in {**saved, **self.options}:
            before, now = saved.get(key), self.options.get(key)
            if before != now:
                raise ElfError(
                    f"this checkpoint was trained with data.{key} {before}, now it is {now}, so "
                    "the run cannot be resumed: set it back, or start a new run"
                )
