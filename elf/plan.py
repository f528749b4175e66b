"""``elf plan``: what a training will be, before it is started; no weights are loaded.

It reads the config that `elf fit` reads, and refuses what that would refuse.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

import elf.datamodules
import elf.modules
from elf.bases.families import FAMILIES
from elf.callbacks import AdapterCheckpoint, BestCheckpoint, SamplePictures
from elf.configuration.refusals import refuse_half_precision_on_cpu
from elf.errors import ElfError
from elf.memory import GIB
from elf.planning import Footprint, advice, disk, report, step_seconds
from elf.planning.cards import USABLE, Card
from elf.planning.probing import Measured, probe
from elf.planning.request import Request
from elf.quiet import silence_harmless_warnings
from elf.trainer import ElfCLI, one_line

ELSEWHERE = ("accelerator", "devices", "num_nodes", "strategy", "precision", "callbacks", "logger",
             "plugins", "profiler", "default_root_dir", "sync_batchnorm")  # fmt: skip
"""Of the trainer, what depends on the machine or makes something."""


class PlanCLI(ElfCLI):
    """Reads a training's config, and what is asked of its plan."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments, run=False, command="plan")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the plan."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--gpu",
            type=str | None,
            default=None,
            help="a card, such as 'RTX 3060 Ti'; the one at hand if not given",
        )
        parser.add_argument(
            "--probe",
            type=bool,
            default=False,
            help="true: take a few real steps, too, and print measured beside predicted",
        )


def main(arguments: list[str]) -> None:
    """``elf plan``: print what a training will take.

    Raises:
        ElfError: For what is wrong with the config, as `elf fit` says it; or if no card is called
            as asked for.
    """
    silence_harmless_warnings()
    arguments = ["--probe=true" if each == "--probe" else each for each in arguments]
    with one_line(arguments):
        cli = PlanCLI(arguments)
        _check_trainer(cli.made.trainer)
    if not (
        isinstance(cli.model, elf.modules.DiffusionModule)
        and isinstance(cli.datamodule, elf.datamodules.ShardDataModule)
    ):
        raise ElfError("plan needs a training config: a DiffusionModule and a ShardDataModule")
    print("\n".join(Plan(cli.made, cli.config_files).lines()))


def _check_trainer(options: Any) -> None:
    """Let Lightning say what it would of the trainer's options."""
    given = {key: value for key, value in options.as_dict().items() if key not in ELSEWHERE}
    silent = ("progress_bar", "model_summary", "checkpointing")
    given |= {f"enable_{each}": False for each in silent}
    with _quietly():
        Trainer(**given | {"accelerator": "cpu", "devices": 1, "logger": False})


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


Kind = TypeVar("Kind")


def _first_of(callbacks: Iterable[object], kind: type[Kind]) -> Kind:
    """Return the first callback of a kind; as `elf fit` adds it if there is none."""
    return next((each for each in callbacks if isinstance(each, kind)), None) or kind()


class Plan(Request):
    """What a config asks for, and what that takes."""

    def lines(self) -> list[str]:
        """Return the plan."""
        steps, batches = self.steps()
        model, batch = self.model, self.data.batch_size * self.devices
        footprint = self.measured(self.choice)
        size = "×".join(map(str, self.pictures.largest))
        family = FAMILIES[model.base.family].title
        lines = report.topic("config", "valid", *self._notes())
        lines += report.topic(
            "base", f"{model.base_name}: {family}, {model.base.prediction_type}, not loaded"
        )
        drop = self.data.remainder == "drop"
        lines += report.picture_lines(self.pictures, self.whence, batch, drop)
        lines += report.topic("steps", self._length(steps, batches, batch))
        lines += report.topic(
            "adapter", *(each.summary_lines()[0] for each in footprint.injected.values())
        )
        lines += report.memory_lines(footprint.memory, footprint.optimizer, model.ema is not None)
        if not footprint.state.known:
            lines += report.topic("", f"(what {footprint.optimizer} keeps is taken for Adam's)")
        lines += report.topic("", f"(largest bucket, {size}, batch {self.data.batch_size})")
        lines += self._fit(footprint)
        lines += self._time(footprint, steps)
        lines += self._disk(footprint, steps)
        if self.probing:
            lines += self._probe(footprint)
        return lines

    def _notes(self) -> list[str]:
        notes = []
        if any((self.folder / "checkpoints").glob("*.ckpt")):
            notes.append(f"{self.folder} holds a run: fit goes on with it, by --ckpt_path last")
        if self.precision.startswith("16") and not (self.at_hand or self.gpu):
            notes.append(f"there is no GPU here, which trainer.precision {self.precision} needs")
        return notes

    def _length(self, steps: int, batches: int, batch: int) -> str:
        if steps < 0:
            return f"without end; {batches:,} batches of {batch} an epoch"
        seen = steps * self.passes
        several = f"{self.passes} × {batch}" if self.passes > 1 else f"{batch}"
        return (
            f"{steps:,} of {several} pictures: {seen * batch:,} pictures seen, "
            f"{seen / batches:,.1f} epochs of {batches:,} batches"
        )

    def _fit(self, footprint: Footprint) -> list[str]:
        card, room = self._room()
        if room is None:
            return report.topic("fits", card)
        total = footprint.memory.total
        if total <= room:
            return report.topic("fits", f"yes: {report.gib(total)} of {report.gib(room)}, {card}")
        lines = [f"no: {report.gib(total)}, and {report.gib(room)} are there, {card}"]
        found = list(advice.changes(self.choice, footprint, room, self.measured))
        for change in found:
            note = f" ({change.note})" if change.note else ""
            lines.append(f"with {change.keys}: {report.gib(change.memory.total)}{note}")
        if not found:
            together = advice.all_together(self.choice, self.measured)
            fits = "fits" if together.memory.total <= room else "does not fit either"
            lines.append(f"no single change makes it fit; {together.keys} together {fits}: "
                         f"{report.gib(together.memory.total)}")  # fmt: skip
        return report.topic("fits", *lines)

    def _room(self) -> tuple[str, int | None]:
        """Return the card in words, and the bytes there are on it."""
        if self.named is not None:
            memory = self.named.memory
            room = int(USABLE * memory * GIB)
            return f"{self.named.name} ({memory:g} GiB, of which a tenth is others')", room
        if self.at_hand is not None:
            name, _, free = self.at_hand
            return f"free on the {name} at hand", free
        return "unknown: there is no GPU here; name one by --gpu", None

    def _card(self) -> Card | None:
        return self.named or (self.at_hand[1] if self.at_hand else None)

    def _time(self, footprint: Footprint, steps: int) -> list[str]:
        card = self._card()
        if card is None:
            which = f"the {self.at_hand[0]} is no card" if self.at_hand else "there is no card"
            return report.topic("time", f"unknown: {which} that Elf has figures of")
        seconds = step_seconds(
            footprint.kernels, footprint.parameters, card, self.passes, self.captured
        )
        how = "captured" if self.captured else "launched kernel by kernel"
        total = f", {report.duration(seconds * steps)} for {steps:,}" if steps > 0 else ""
        compiled = ", without what model.torch_compile gains"
        alone = f"(training alone{compiled if self.model.torch_compile else ''})"
        return report.topic("time", f"{report.duration(seconds)} a step, {how}{total}", alone)

    def _disk(self, footprint: Footprint, steps: int) -> list[str]:
        training, pictures = self.training, self.pictures
        channels = int(training.base.config("unet").get("in_channels", 4))
        latents = disk.latent_bytes(pictures.cached, channels, training.latent_factor)
        texts = disk.text_bytes(pictures.texts or 0, *training.text_shape)
        callbacks = self.trainer.callbacks or []
        rows = [
            (f"latents of {sum(pictures.cached.values()):,} pictures", report.gib(latents)),
            (f"text states of {pictures.texts or 0:,} captions", report.gib(texts)),
        ]
        saver = _first_of(callbacks, AdapterCheckpoint)
        best = _first_of(callbacks, BestCheckpoint)
        if steps > 0:
            written = max(1, steps // saver.every_n_steps)
            kept = written if saver.save_top_k < 0 else min(written, saver.save_top_k)
            files = kept + 1 + best.keep  # and the last
            averaged = self.model.ema is not None
            size = disk.checkpoint_bytes(
                footprint.parameters, footprint.state.size, averaged, files
            )
            rows.append((f"{files} checkpoints", report.gib(size)))
        for each in callbacks:
            if isinstance(each, SamplePictures) and steps > 0:
                rows.append(self._samples(each, 1 + steps // each.every_n_steps))
        return report.topic("disk", *report.aligned(rows, left=(0,)))

    def _samples(self, samples: SamplePictures, sheets: int) -> tuple[str, str]:
        side = int(self.training.base.config("unet").get("sample_size", 64))
        usual = side * self.training.latent_factor
        sizes = [
            (
                prompt.width or samples.generation.width or usual,
                prompt.height or samples.generation.height or usual,
            )
            for prompt in samples.prompts
        ]
        most = disk.sample_bytes(sizes, len(samples.strengths), sheets)
        return f"{sheets} sheets of sample pictures, at most", report.gib(most)

    # --- what it really takes ---------------------------------------------------------------

    def _probe(self, footprint: Footprint) -> list[str]:
        device = torch.device("cuda" if self.at_hand else "cpu")
        refuse_half_precision_on_cpu(self.precision, device.type)
        options = self.trainer
        found: Measured = probe(
            self.training,
            self.choice,
            self.pictures.largest,
            device,
            self.passes,
            self.captured,
            options.gradient_clip_val,
            options.gradient_clip_algorithm,
        )
        card = self.at_hand[1] if self.at_hand else None
        rows = [("", "predicted", "measured")]
        if found.reserved is not None:
            rows.append(
                ("reserved", report.gib(footprint.memory.total), report.gib(found.reserved))
            )
        predicted = "unknown"
        if card is not None:
            seconds = step_seconds(
                footprint.kernels, footprint.parameters, card, self.passes, self.captured
            )
            predicted = report.duration(seconds)
        rows.append(("a step", predicted, report.duration(found.seconds)))
        rows.append(("the first step", "", report.duration(found.first)))
        return report.topic("probe", *report.aligned(rows, left=(0,)))
