"""The data of a training run: pictures and labels for `elf prepare`, shards for `elf fit`."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningDataModule

from elf.caches import REMEDY, Example, Prepared, read_prepared
from elf.datamodules.loader import CachedExamples, EpochLoader, HeldOutLoader
from elf.errors import ElfError
from elf.shards import Reader
from elf.sources import CaptionKind, PictureFormat, Settings


class ShardDataModule(LightningDataModule):
    """Trains from the caches that `elf prepare` makes with the same settings.

    Args:
        pictures: Folder of the pictures; the manifest's paths are relative to it.
        labels: Folder of the labels, with ``manifest.jsonl``.
        shards: Folder of the shards and caches.
        resolution: Side of the square whose area each picture gets, px.
        bucket_step: Bucket sides are multiples of it, px.
        min_side: Shortest bucket side, px; half the resolution if not given.
        max_side: Longest bucket side, px; twice the resolution if not given.
        held_out: The share of pictures kept for validation, 0-1.
        caption: What a picture is trained with: its tags, its sentence, or both.
        trigger: The trigger word of the labels; only prior preservation needs it.
        caption_dropout: The share of samples trained with the empty caption, 0-1.
        prior_preservation: The share of samples whose caption loses the trigger, and whose target
            is what the base predicts: what the adapter learns then stays with the trigger. 0-1.
        batch_size: Pictures a step and device.
        remainder: A bucket's last batch is filled with its first pictures, or dropped.
        workers: Processes that read shards; `elf prepare`: threads that resize pictures.
        seed: Of the order, the caption dropout and all noise.
        picture_format: How `elf prepare` stores resized pictures.
        shard_size: At most about this many samples go into one shard.

    Raises:
        ElfError: If a value is out of its range, with the key.
    """

    # With few held-out pictures some ranks have no validation batch; none of them waits for it.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        pictures: str = "data/raw",
        labels: str = "data/labels",
        shards: str = "data/shards",
        resolution: int = 512,
        bucket_step: int = 64,
        min_side: int | None = None,
        max_side: int | None = None,
        held_out: float = 0.05,
        caption: CaptionKind = "tags",
        trigger: str | None = None,
        caption_dropout: float = 0.0,
        prior_preservation: float = 0.0,
        batch_size: int = 1,
        remainder: Literal["fill", "drop"] = "fill",
        workers: int = 2,
        seed: int = 0,
        picture_format: PictureFormat = "png",
        shard_size: int = 1000,
    ) -> None:
        super().__init__()
        for key, number, least in (
            ("batch_size", batch_size, 1),
            ("workers", workers, 0),
            ("shard_size", shard_size, 1),
        ):
            if number < least:
                raise ElfError(f"data.{key} {number} is too small: at least {least}")
        for key, share in (
            ("held_out", held_out),
            ("caption_dropout", caption_dropout),
            ("prior_preservation", prior_preservation),
        ):
            if not 0 <= share <= 1:
                raise ElfError(f"data.{key} {share} is a share: give a number from 0 to 1")
        if prior_preservation and not trigger:
            raise ElfError(
                "data.prior_preservation takes the trigger out of captions: set data.trigger"
            )
        self.pictures, self.labels, self.shards = pictures, labels, shards
        self.caption_dropout = caption_dropout
        self.prior_preservation = prior_preservation
        self.batch_size = batch_size
        self.remainder = remainder
        self.workers = workers
        self.seed = seed
        self.settings = Settings(
            resolution=resolution,
            bucket_step=bucket_step,
            min_side=min_side,
            max_side=max_side,
            held_out=held_out,
            caption=caption,
            trigger=trigger or None,
            picture_format=picture_format,
            shard_size=shard_size,
        )
        self.prepared: Prepared | None = None
        self._reader = Reader(Path(shards))
        self._loaders: list[EpochLoader | HeldOutLoader] = []

    def setup(self, stage: str) -> None:
        """Open what was prepared, and check that it was made for this config and model.

        Raises:
            ElfError: If it is missing, damaged, or stale.
        """
        if self.prepared is None:
            self.prepared = read_prepared(Path(self.shards), self.settings)
        module = self.trainer.lightning_module if self.trainer else None
        fingerprints = getattr(module, "fingerprints", None)
        if callable(fingerprints):
            for model, mine in fingerprints().items():
                cached = self.prepared.fingerprints.get(model)
                if cached != mine:
                    raise ElfError(
                        f"{self.shards}: the caches were made by another {model} model "
                        f"({str(cached)[:12]}…, this one is {mine[:12]}…): {REMEDY}"
                    )

    def train_dataloader(self) -> EpochLoader:
        """Return this rank's training batches.

        Raises:
            ElfError: If no batch can be filled.
        """
        examples = self._require().train
        world, rank = self._world()
        loader = EpochLoader(
            self._dataset(examples),
            bucket_numbers(examples),
            self.batch_size * world,
            self.seed,
            self._require().index_hash,
            world,
            rank,
            self.workers,
            self.caption_dropout,
            self.prior_preservation,
            self.remainder == "drop",
        )
        if not len(loader):
            raise ElfError(
                f"data.remainder=drop leaves no batch: no bucket has the {self.batch_size * world} "
                "pictures of a batch; use fill or a smaller data.batch_size"
            )
        self._loaders.append(loader)
        return loader

    def val_dataloader(self) -> HeldOutLoader | list[HeldOutLoader]:
        """Return this rank's validation batches; no loader if nothing is held out."""
        examples = self._require().held_out
        if not examples:
            return []
        world, rank = self._world()
        loader = HeldOutLoader(
            self._dataset(examples),
            bucket_numbers(examples),
            self.batch_size,
            world,
            rank,
            self.workers,
        )
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the processes that read."""
        while self._loaders:
            self._loaders.pop().close()
        self._reader.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the processes that read; Lightning tears nothing down after an error."""
        self.teardown("exception")

    def _require(self) -> Prepared:
        if self.prepared is None:
            self.setup("fit")
        assert self.prepared is not None
        return self.prepared

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _dataset(self, examples: list[Example]) -> CachedExamples:
        return CachedExamples(examples, self._require().empty, self._reader)


def bucket_numbers(examples: list[Example]) -> list[int]:
    """Return each sample's bucket as a number; buckets are numbered in the order of their sizes."""
    number = {size: place for place, size in enumerate(sorted({e.size for e in examples}))}
    return [number[example.size] for example in examples]
