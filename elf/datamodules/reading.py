"""Batches of cached samples, read by workers that share nothing but positions."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from elf.datamodules.packing import pack
from elf.errors import ElfError
from elf.preparation.caches import Bytes, Cached, CachedText, text_key
from elf.preparation.prepared import REMEDY, Example
from elf.preparation.shards import Reader
from elf.preparation.trigger import without_trigger

Batch = dict[str, Any]


class Draw(NamedTuple):
    """One place of a batch.

    Attributes:
        sample: Its number among the examples.
        seed: What everything about it is drawn from.
        dropped: Whether it gets the empty caption.
        preserved: Whether it is to keep what the base predicts, and its caption has no trigger.
        flipped: Whether it is mirrored, left to right.
        sentence: Whether the sentence stands for its caption, where either of the two is drawn.
        words: What its tags are drawn from; None: the caption as it stands.
    """

    sample: int
    seed: int
    dropped: bool = False
    preserved: bool = False
    flipped: bool = False
    sentence: bool = False
    words: int | None = None


class CachedExamples(Dataset[Any]):
    """Reads batches of cached samples; holds positions only, so that workers share nothing else.

    Args:
        examples: Where each sample's arrays lie.
        texts: Where the states of captions lie, by ``text_key``; None for batches of captions
            alone, whose states are made while training.
        reader: Of the shards' folder.
        masks: Whether batches hold masks, white for samples without one.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        texts: dict[str, CachedText] | None,
        reader: Reader,
        masks: bool = False,
    ) -> None:
        self.examples = examples
        self.texts = texts
        self.reader = reader
        self.masks = masks

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, draws: Sequence[Draw]) -> Batch | ElfError:
        """Return a batch of samples of one bucket, or what is wrong with them.

        An error travels as a value: torch would wrap an exception of a worker in its traceback.
        """
        try:
            return self._batch(draws)
        except ElfError as error:
            return error

    def _batch(self, draws: Sequence[Draw]) -> Batch:
        examples = [self.examples[draw.sample] for draw in draws]
        pairs = list(zip(examples, draws, strict=True))
        arrays = [_latent(example, draw).read(self.reader) for example, draw in pairs]
        latents = torch.from_numpy(np.stack(arrays))  # (B, 2, C, h, w)
        captions = [_caption(example, draw) for example, draw in pairs]
        crops = [example.flipped_crop if draw.flipped else example.crop for example, draw in pairs]
        batch = {
            "id": [example.id for example in examples],
            "caption": captions,
            "seed": torch.tensor([draw.seed for draw in draws], dtype=torch.int64),  # (B,)
            "preserved": torch.tensor([draw.preserved for draw in draws]),  # (B,)
            "regularisation": torch.tensor([example.regularisation for example in examples]),
            "loss_weight": torch.tensor([example.weight for example in examples]),  # (B,)
            "latent_mean": latents[:, 0].float().contiguous(),  # (B, C, h, w)
            "latent_std": latents[:, 1].float().contiguous(),
            # (B, 2) in px: height, width; height, width of the original; top, left
            "size": torch.tensor([example.size for example in examples]),
            "original_size": torch.tensor([example.original_size for example in examples]),
            "crop": torch.tensor(crops),
        }
        if self.masks:
            masks = [self._mask(example, draw) for example, draw in pairs]
            batch["mask"] = torch.from_numpy(np.stack(masks)).float() / 255  # (B, h, w), 0-1
        return batch | (self._states(captions, self.texts) if self.texts is not None else {})

    def _states(self, captions: list[str], texts: dict[str, CachedText]) -> Batch:
        """Return ``text`` (B, T, D), and ``pooled`` (B, P) of a model that has it."""
        try:
            found = [texts[text_key(caption)] for caption in captions]
        except KeyError:
            missing = next(caption for caption in captions if text_key(caption) not in texts)
            raise ElfError(
                f"{self.reader.folder}: no text state of {missing!r} is cached (another version of "
                f"elf made the caches): {REMEDY}"
            ) from None
        arrays = {kind: [states[kind].read(self.reader) for states in found] for kind in found[0]}
        return {kind: torch.from_numpy(np.stack(rows)).float() for kind, rows in arrays.items()}

    def _mask(self, example: Example, draw: Draw) -> Bytes:
        if example.mask is None:
            return np.full(example.latent.shape[-2:], 255, np.uint8)
        mask = example.mask.read_mask(self.reader)
        return mask[:, ::-1] if draw.flipped else mask


def _caption(example: Example, draw: Draw) -> str:
    """Return the text that a sample is trained with."""
    if draw.dropped:
        return ""
    text = example.captions.drawn(draw.words, draw.sentence)
    return without_trigger(text, example.captions.trigger) if draw.preserved else text


def _latent(example: Example, draw: Draw) -> Cached:
    if not draw.flipped:
        return example.latent
    assert example.flipped is not None, "drawn for samples of flipped sets alone"
    return example.flipped


class Plan(Protocol):
    """The batches still to be read, each a list of draws; there may be no end to them."""

    def __iter__(self) -> Iterator[list[Draw]]: ...


WORKER_DIED = (
    "a process that reads the shards died (killed, perhaps for want of memory): "
    "start again with --ckpt_path last, or with a smaller data.workers"
)


def is_of_dead_worker(error: RuntimeError) -> bool:
    """Whether torch tells of a worker that died: it may, in whatever the main thread is doing."""
    return "DataLoader worker" in str(error)


class BatchReading:
    """Reads planned batches with workers that stay alive from one pass to the next."""

    def __init__(self, dataset: CachedExamples, plan: Plan, workers: int) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            sampler=plan,
            batch_size=None,  # the plan's items are whole batches
            collate_fn=pack,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # torch draws a base seed for workers each pass; not from the global generator
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Iterator[Batch]:
        try:
            for batch in self._loader:
                if isinstance(batch, ElfError):
                    raise batch
                yield batch.batch()
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # the last three: a batch was on its way when the worker that holds it died
            if isinstance(error, RuntimeError) and not is_of_dead_worker(error):
                raise
            with contextlib.suppress(RuntimeError):  # torch raises its own once more, in whatever
                self.close()  # is being done then, and that had better be this
            raise ElfError(WORKER_DIED) from error

    def close(self) -> None:
        """End the workers; they start again when needed.

        Left to the garbage collector, torch waits 5 s for each: the collector closes the queues
        before torch can say through them that the workers may go.
        """
        iterator, self._loader._iterator = self._loader._iterator, None
        if iterator is not None and self._loader.num_workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
