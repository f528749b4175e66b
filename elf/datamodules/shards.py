"""The data of a training run: pictures and labels for `elf prepare`, shards for `elf fit`."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule

from elf.datamodules.loader import EpochLoader, HeldOutLoader, Treatment
from elf.datamodules.reading import Batch, CachedExamples
from elf.draws import id_words, uniform
from elf.errors import ElfError
from elf.preparation.captionoptions import NOTHING, CaptionKind, CaptionOptions, TextStates, resolve
from elf.preparation.edited import notes_of_edits
from elf.preparation.prepared import REMEDY, Example, Prepared, read_prepared
from elf.preparation.remote import fetch_shards, is_remote, local_path
from elf.preparation.sets import PictureSet, fill_in, times_an_epoch
from elf.preparation.settings import PictureFormat, Settings
from elf.preparation.shards import Reader
from elf.training.epoch import batches, bucket_counts
from elf.training.validationsets import HELD_OUT, TRAINED, UNRELATED

PICTURES, LABELS = "data/raw", "data/labels"


class ShardDataModule(LightningDataModule):
    """Trains from the caches that `elf prepare` makes with the same settings.

    Args:
        pictures: Folder of the pictures; the manifest's paths are relative to it.
        labels: Folder of the labels, with ``manifest.jsonl``.
        sets: Several sets of pictures, instead of the one of ``pictures`` and ``labels``.
        shards: Folder of the shards and caches; for training also a URL, of any file system that
            fsspec knows, to which what `elf prepare` wrote was copied.
        shards_cache: Folder for the copies of shards behind URLs.
        resolution: Side of the square whose area each picture gets, px.
        bucket_step: Bucket sides are multiples of it, px.
        min_side: Shortest bucket side, px; half the resolution if not given.
        max_side: Longest bucket side, px; twice the resolution if not given.
        no_upscale: Never enlarge a picture: those below the area keep their size, cropped to the
            step, in buckets of their own; no shortest and longest side then.
        held_out: The share of pictures kept for validation, 0-1.
        validate_trained: How many of the training pictures, the same in each run, the validation
            loss is measured on beside those held out; as many as these if not given. The gap
            between the two is what is learnt by heart.
        caption: What a picture is trained with: its tags, its sentence, both, or either of the
            two, drawn each time.
        shuffle_tags: The tags stand in another order each time; the trigger stays in front, a
            sentence behind them.
        keep_tags: How many of the first tags keep their place and are never dropped; the trigger is
            not counted.
        tag_dropout: The share of the other tags that is left out of a caption, 0-1.
        keep_separator: A text in captions, such as ``|||``, behind the tags to keep.
        sentence_share: With caption ``either``, the share of samples with the sentence, 0-1; half
            if not given.
        text_states: Of captions, cached by `elf prepare`, or made live in each step: then captions
            vary without limit, and text encoders can be trained.
        caption_variants: How many captions of each picture are cached if tags are shuffled or
            dropped; 8 if not given.
        trigger: The trigger word of the labels; prior preservation needs it, and sentences that
            are drawn instead of tags get it in front.
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

    # As far as Lightning sees; each rank has a batch of its own.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        pictures: str = PICTURES,
        labels: str = LABELS,
        sets: list[PictureSet] = [],  # noqa: B006 (read only)
        shards: str = "data/shards",
        shards_cache: str = ".cache/shards",
        resolution: int = 512,
        bucket_step: int = 64,
        min_side: int | None = None,
        max_side: int | None = None,
        no_upscale: bool = False,
        held_out: float = 0.05,
        validate_trained: int | None = None,
        caption: CaptionKind = "tags",
        shuffle_tags: bool = False,
        keep_tags: int = 0,
        tag_dropout: float = 0.0,
        keep_separator: str | None = None,
        sentence_share: float | None = None,
        text_states: TextStates = "cached",
        caption_variants: int | None = None,
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
            ("validate_trained", 0 if validate_trained is None else validate_trained, 0),
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
        for key, path, usual in (("pictures", pictures, PICTURES), ("labels", labels, LABELS)):
            if sets and path != usual:
                raise ElfError(f"data.{key} {path} is not used with data.sets: name it in a set")
        drawn = CaptionOptions(
            shuffle_tags=shuffle_tags or None,
            keep_tags=keep_tags or None,
            tag_dropout=tag_dropout or None,
            keep_separator=keep_separator or None,
            sentence_share=sentence_share,
            caption_variants=caption_variants,
        )
        filled = fill_in(sets, caption, trigger, caption_dropout, drawn, text_states)
        live = text_states == "live"
        own = NOTHING if sets else resolve(drawn, [NOTHING], [caption], live)[0]
        if trigger and not trigger.strip():
            raise ElfError(f"data.trigger {trigger!r} is blank: give a word, or null for none")
        if prior_preservation and not (any(s.trigger for s in filled) if sets else trigger):
            empty = [n for n, s in enumerate(sets) if s.trigger == "" and not s.regularisation]
            remedy = ": set data.trigger"
            if empty:
                remedy = (
                    f", but data.sets[{empty[0]}].trigger is empty: give a word there, or leave it "
                    "out and set data.trigger"
                )
            raise ElfError(f"data.prior_preservation takes the trigger out of captions{remedy}")
        self.pictures, self.labels, self.shards = pictures, labels, shards
        self.caption_dropout = caption_dropout
        self.prior_preservation = prior_preservation
        self.batch_size = batch_size
        self.remainder = remainder
        self.validate_trained = validate_trained
        self.workers = workers
        self.seed = seed
        self.settings = Settings(
            resolution=resolution,
            bucket_step=bucket_step,
            min_side=min_side,
            max_side=max_side,
            no_upscale=no_upscale,
            held_out=held_out,
            caption=caption,
            trigger=trigger or None,
            picture_format=picture_format,
            shard_size=shard_size,
            sets=filled,
            text_states=text_states,
            **own.given(),
        )
        self.prepared: Prepared | None = None
        self.shards_cache = shards_cache
        self._reader = Reader(local_path(shards, shards_cache))
        self._loaders: list[EpochLoader | HeldOutLoader] = []

    def prepare_data(self) -> None:
        """Fetch remote shards; Lightning calls this once a machine, before ``setup``.

        Raises:
            ElfError: If that cannot be done.
        """
        if is_remote(self.shards):
            wait = self.trainer is not None and self.trainer.world_size > 1
            fetch_shards(self.shards, self.shards_cache, wait)

    def setup(self, stage: str) -> None:
        """Open what was prepared, and check that it was made for this config and model.

        Raises:
            ElfError: If it is missing, damaged, or stale.
        """
        if self.prepared is None:
            self.prepared = read_prepared(self._reader.folder, self.settings)
        module = self.trainer.lightning_module if self.trainer else None
        fingerprints = getattr(module, "fingerprints", None)
        if callable(fingerprints):
            refuse_other_models(self.shards, self.prepared, fingerprints())
        if stage == "fit" and self._world()[1] == 0:
            sets = self.settings.all_sets(str(self.pictures), str(self.labels))
            for note in notes_of_edits(self.prepared, sets):
                print(note)

    def train_dataloader(self) -> EpochLoader:
        """Return this rank's training batches.

        Raises:
            ElfError: If no batch can be filled.
        """
        loader = self._epochs(self.workers)
        self._loaders.append(loader)
        self._tell_of_fills(len(loader) * self.batch_size * self._world()[0])
        return loader

    def first_batches(self, samples: int) -> Iterator[Batch]:
        """Yield this rank's part of the first so many samples of a run, as training draws them.

        A run that has begun is not moved on. What fills the last batch comes, too.
        """
        loader = self._epochs(workers=0)
        number = math.ceil(samples / (self.batch_size * self._world()[0]))
        with contextlib.closing(loader):
            epochs = itertools.chain.from_iterable(itertools.repeat(loader))
            yield from itertools.islice(epochs, number)

    def _epochs(self, workers: int) -> EpochLoader:
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
            workers,
            self._treatment(examples),
            self.remainder == "drop",
            self._drawn_from(),
        )
        if not len(loader):
            raise ElfError(
                f"data.remainder=drop leaves no batch: no bucket has the {self.batch_size * world} "
                "pictures of a batch; use fill or a smaller data.batch_size"
            )
        return loader

    def batches_an_epoch(self) -> int:
        """Return how many training batches each rank has in an epoch."""
        examples = self._require().train
        counts = bucket_counts(bucket_numbers(examples), self._treatment(examples).repeats)
        return batches(counts, self.batch_size * self._world()[0], self.remainder == "drop")

    def _tell_of_fills(self, places: int) -> None:
        examples = self._require().train
        counts = bucket_counts(bucket_numbers(examples), self._treatment(examples).repeats)
        fills = places - sum(counts)
        if fills > sum(counts) and self._world()[1] == 0:
            print(
                f"data.batch_size {self.batch_size} is more than most buckets hold: {fills} of an "
                f"epoch's {places} places show a picture again; take a smaller one"
            )

    def val_dataloader(self) -> list[HeldOutLoader]:
        """Return this rank's validation batches of each set that has pictures."""
        prepared = self._require()
        number = self.validate_trained
        if number is None:
            number = len(prepared.held_out)
        chosen = {
            HELD_OUT: prepared.held_out,
            TRAINED: fixed_part(prepared.train, number),
            UNRELATED: prepared.unrelated,
        }
        world, rank = self._world()
        loaders = [
            HeldOutLoader(
                self._dataset(examples),
                bucket_numbers(examples),
                self.batch_size,
                world,
                rank,
                self.workers,
                kind,
            )
            for kind, examples in chosen.items()
            if examples
        ]
        self._loaders += loaders
        return loaders

    def teardown(self, stage: str) -> None:
        """End the processes that read."""
        while self._loaders:
            self._loaders.pop().close()
        self._reader.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the processes that read; Lightning tears nothing down after an error."""
        self.teardown("exception")

    @property
    def text_mode(self) -> TextStates:
        """Whether batches hold ``text``, from the caches, or captions alone, to be encoded live."""
        return self.settings.text_states

    def _drawn_from(self) -> dict[str, Any]:
        """Return what draws depend on and a resume needs the same, by key; sets' shares apart.

        Those, with repeats and weights, are in the index's hash.
        """
        options: dict[str, Any] = {"prior_preservation": self.prior_preservation}
        if self.text_mode == "live":
            options["text_states"] = "live"
        if not self.settings.sets:
            return options | {"caption_dropout": self.caption_dropout} | self.settings.given()
        for number, each in enumerate(self.settings.sets):
            options |= {f"sets[{number}].{key}": value for key, value in each.given().items()}
        return options

    def _treatment(self, examples: list[Example]) -> Treatment:
        sets = self.settings.all_sets()
        shares = [each.sentence_share or 0.0 for each in sets]
        variants = [0 if self.text_mode == "live" else each.caption_variants or 1 for each in sets]
        if not self.settings.sets:
            return Treatment(
                self.caption_dropout,
                self.prior_preservation,
                sentence=shares[0],
                variants=variants[0],
            )
        numbers = np.array([example.set for example in examples], np.int64)
        # what the base knows of pictures without a trigger is what they are there to teach
        preserved = [self.prior_preservation if each.trigger else 0.0 for each in sets]
        return Treatment(
            np.array([each.caption_dropout for each in sets])[numbers],
            np.array(preserved)[numbers],
            np.array([0.5 if each.flip else 0.0 for each in sets])[numbers],
            times_an_epoch(sets, numbers),
            np.array(shares)[numbers],
            np.array(variants)[numbers],
        )

    def _require(self) -> Prepared:
        if self.prepared is None:
            self.setup("fit")
        assert self.prepared is not None
        return self.prepared

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _dataset(self, examples: list[Example]) -> CachedExamples:
        prepared = self._require()
        return CachedExamples(examples, prepared.texts, self._reader, prepared.has_masks)


def refuse_other_models(shards: str, prepared: Prepared, models: Mapping[str, str]) -> None:
    """Refuse caches that other models made.

    Args:
        shards: Where they are.
        prepared: What they are.
        models: Fingerprints of the models at hand, ``vae`` and ``text``.

    Raises:
        ElfError: If they differ, with both.
    """
    for model, mine in models.items():
        if model == "text" and prepared.text_states == "live":
            continue  # nothing there was made by it
        cached = prepared.fingerprints.get(model)
        if cached != mine:
            also = ", clip_skip or caption_tokens" if model == "text" else ""
            raise ElfError(
                f"{shards}: the caches were made by another {model} model "
                f"({str(cached)[:12]}…, this one is {mine[:12]}…){also}: {REMEDY}"
            )


def bucket_numbers(examples: list[Example]) -> list[int]:
    """Return each sample's bucket as a number; buckets are numbered in the order of their sizes."""
    number = {size: place for place, size in enumerate(sorted({e.size for e in examples}))}
    return [number[example.size] for example in examples]


def fixed_part(examples: list[Example], number: int) -> list[Example]:
    """Return a number of the samples that are to be learnt, chosen by their ids alone."""
    learnt = [example for example in examples if not example.regularisation]
    draws = uniform(id_words([each.id for each in learnt]).astype(np.int64), "validate trained")
    return [learnt[place] for place in sorted(np.argsort(draws)[:number].tolist())]
