"""`elf prepare`: pictures with captions → shards in buckets, cached latents and text states.

Captions, pictures, masks, settings and the models decide what a shard holds; a second run with none
of them changed has nothing to do.
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from elf.counted import counted
from elf.errors import ElfError, ElfWarning
from elf.files import FolderLock, explain_disk_errors
from elf.preparation.captioned import read_captioned
from elf.preparation.captionsummary import summarise_captions
from elf.preparation.datasummary import Summary, summarise
from elf.preparation.encoding import Encoder, Picture
from elf.preparation.labelled import read_labelled
from elf.preparation.making import REFUSALS, NotWhole, changed, make_shards
from elf.preparation.masks import MaskReader
from elf.preparation.measuring import Placing, make_placing, measure, warn_of_lost_area
from elf.preparation.selecting import Selection, learnt, select
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings
from elf.preparation.shardset import ShardFolder
from elf.preparation.sources import Dropped, Found, Source, refuse_shared
from elf.preparation.tarsources import read_tars
from elf.preparation.trigger import has_trigger
from elf.processes import gather, place, together

_REMEDY = (
    "make room, or name another folder in data.shards; then run the same command again, whole "
    "shards stay"
)


def prepare(
    encoder: Encoder,
    settings: Settings,
    pictures: str | Path = "data/raw",
    labels: str | Path = "data/labels",
    shards: str | Path = "data/shards",
    batch_size: int = 8,
    workers: int = 4,
    trained_batch: int = 1,
) -> Summary:
    """Bring a folder of shards and caches up to date with pictures; print a summary.

    A run that is killed leaves whole files only, and the next one continues; the result is the
    same, byte for byte, as that of one undisturbed run with the same batches.

    Several processes (torchrun, srun) share the work, shard by shard: the files are those of one.

    Args:
        encoder: The frozen models.
        settings: Of buckets, captions, split and sets.
        pictures: The folder that the manifest's paths are relative to, if there are no sets.
        labels: The folder of the manifest and the label files, if there are no sets.
        shards: The folder to write into.
        batch_size: Pictures or captions encoded at once.
        workers: Threads that decode and resize pictures.
        trained_batch: Pictures a step in training; the summary says what fills up the batches.

    Raises:
        ElfError: If nothing is labelled, nothing is left to train on, no caption holds the
            trigger, two sets hold the same picture, the settings do not suit the model, or a
            latent is not finite (with the picture's name).
    """
    placing = make_placing(settings, encoder.latent_factor)
    sets = settings.all_sets(str(pictures), str(labels))
    folder = Path(shards)
    made: Counter[str] = Counter()
    processes, rank = place()
    with ThreadPoolExecutor(max(1, workers)) as threads:
        found, left_out = find_sources(sets, threads)
        with explain_disk_errors(folder, "could not be written", _REMEDY), _locked(folder, rank):
            # To decode all pictures first, only to know which are whole, takes as long as to
            # decode them for the shards: it is done where one was not.
            for decode in (False, True):
                # all look at what is there before any of them writes: measuring, they meet
                state = ShardFolder(folder, settings.shard_size, processes, rank, made)
                if state.is_first:
                    state.sweep_temporary()
                masks = MaskReader(encoder.latent_factor, state.stamps("masks"))
                chosen, unusable = _measured(found, placing, masks, state, threads, decode)
                dropped = [*left_out, *unusable]
                selection = _select(settings, sets, chosen, dropped)
                try:
                    make_shards(encoder, settings, selection, masks, state, threads, batch_size)
                    break
                except NotWhole as error:
                    if decode:
                        raise changed(str(error), error.__cause__) from None
    texts = summarise_captions(selection, encoder, state.kept)
    summary = summarise(selection, dropped, sum(gather(made), Counter()), trained_batch, texts)
    if rank == 0:
        print(summary)
    return summary


@contextlib.contextmanager
def _locked(folder: Path, rank: int) -> Iterator[None]:
    """Hold the folder's lock, by the first process for all."""
    lock = together(lambda: FolderLock(folder) if rank == 0 else None, REFUSALS)
    with lock or contextlib.nullcontext():
        yield


def _measured(
    found: Sequence[Source],
    placing: Placing,
    masks: MaskReader,
    state: ShardFolder,
    threads: ThreadPoolExecutor,
    decode: bool,
) -> tuple[list[Picture], list[Dropped]]:
    """Return the pictures that can be used, and those that cannot, of all processes' shares."""
    share = found[state.rank :: state.processes]
    work = partial(measure, share, placing, masks, state, threads, decode)
    shares = gather(together(work, REFUSALS))
    order = {(source.set, source.path): number for number, source in enumerate(found)}
    chosen = [picture for pictures, _ in shares for picture in pictures]
    dropped = [drop for _, drops in shares for drop in drops]
    return (
        sorted(chosen, key=lambda picture: order[picture.source.set, picture.source.path]),
        sorted(dropped, key=lambda drop: order[drop.set, drop.path]),
    )


def _select(
    settings: Settings,
    sets: Sequence[PictureSet],
    chosen: Sequence[Picture],
    dropped: Sequence[Dropped],
) -> Selection:
    """Return what is to be in the shards, or say why there is nothing to learn."""
    if not chosen:
        ((reason, count),) = Counter(drop.reason for drop in dropped).most_common(1)
        first = next(drop.path for drop in dropped if drop.reason == reason)
        raise ElfError(
            f"no picture is left to train on: all {len(dropped)} were dropped, {count} of them "
            f"({first} first) because: {reason}; mend that, or name other pictures"
        )
    warn_of_lost_area(settings, [picture.size for picture in chosen])
    if not learnt(sets, chosen):
        raise ElfError(
            "no picture is left to train on but regularisation or unrelated pictures; add some, or "
            "see above why others were dropped"
        )
    key = "sets[{}].trigger" if settings.sets else "trigger"
    _require_triggers(sets, chosen, key)
    return select(settings, sets, chosen)


def find_sources(sets: Sequence[PictureSet], threads: ThreadPoolExecutor) -> Found:
    """Return the pictures of sets, and what is left out already here.

    Raises:
        ElfError: If a set is not there, or two hold the same picture.
    """
    found: list[Source] = []
    dropped: list[Dropped] = []
    for number, each in enumerate(sets):
        if each.tars is not None:
            sources, left_out = read_tars(each, number, threads)
        elif each.labels:
            sources, left_out = read_labelled(each, number)
        else:
            sources, left_out = read_captioned(each, number, threads)
        found += sources
        dropped += left_out
    refuse_shared(found)
    return found, dropped


def _require_triggers(sets: Sequence[PictureSet], chosen: Sequence[Picture], key: str) -> None:
    """Refuse a trigger that no caption of its set holds; say so if some do not."""
    for number, each in enumerate(sets):
        sources = [picture.source for picture in chosen if picture.source.set == number]
        if not each.trigger or not sources:
            continue
        without = [s for s in sources if not has_trigger(s.caption, each.trigger)]
        if len(without) == len(sources):
            raise ElfError(
                f"data.{key.format(number)}: no caption holds {each.trigger!r} (one is "
                f"{without[0].caption!r}); name the trigger that the labels were made with"
            )
        if without:
            some = f"of {len(sources)} captions, {counted(len(without), 'has', 'have')}"
            warnings.warn(
                f"data.{key.format(number)}: {some} no {each.trigger!r} (the first is of "
                f"{without[0].path}): what those pictures show is learnt without it",
                ElfWarning,
                stacklevel=3,
            )
