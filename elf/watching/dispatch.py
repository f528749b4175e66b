"""What callbacks show, given to every logger of a run and to the run's folder alike.

=============  =========================  ===================  ====================
shown          run's folder               TensorBoard          W&B
=============  =========================  ===================  ====================
figures        metrics.csv, speed.csv     scalars              history
picture        NAME/step-NNNNNN.png       image                image
table          NAME.csv and its pictures  text (Markdown)      table with pictures
file           where it lies              text: name and hash  artifact
configuration  config.yaml                text                 config
=============  =========================  ===================  ====================

All of it happens in the first process alone; the functions may be called in every one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from elf.files import sha256_file
from elf.images import write_png
from elf.watching.steptable import StepTable
from elf.watching.wandb_run import WandbRun


@dataclass(frozen=True)
class Picture:
    """A picture in a table.

    Attributes:
        image: It.
        file: Where it goes, in the run's folder.
        texts: What its file says about it.
    """

    image: Image.Image
    file: str
    texts: Mapping[str, str]


def log_figures(trainer: Trainer, figures: Mapping[str, float], step: int) -> None:
    """Show figures at a step."""
    if trainer.is_global_zero and figures:
        for logger in trainer.loggers:
            logger.log_metrics(dict(figures), step=step)
            logger.save()  # as Lightning has it: some write nothing else


def log_picture(
    trainer: Trainer, name: str, image: Image.Image, step: int, again: bool = False
) -> None:
    """Show a picture at an optimizer step.

    Args:
        trainer: The run's.
        name: What it shows; the folder of its file.
        image: It.
        step: Optimizer steps done.
        again: It was shown before the run stopped, and goes only where it was hidden since.
    """
    if not trainer.is_global_zero:
        return
    if not again:
        write_png(Path(trainer.default_root_dir) / name / f"step-{step:06d}.png", image)
    for logger in trainer.loggers:
        if not again or getattr(logger, "forgets", False):
            _picture(logger, name, image, step)


def log_table(
    trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Show rows of values and pictures at an optimizer step.

    Args:
        trainer: The run's.
        name: Of the table.
        columns: Names of the columns; ``step`` is added before them.
        rows: One value for each column.
        step: Optimizer steps done.
    """
    if not trainer.is_global_zero:
        return
    folder = Path(trainer.default_root_dir)
    for cell in (cell for row in rows for cell in row):
        if isinstance(cell, Picture):
            write_png(folder / cell.file, cell.image, cell.texts)
    table = StepTable(folder / f"{name}.csv")
    plain = [[str(step), *map(_plain, row)] for row in rows]
    head = ["step", *columns]
    table.columns += [column for column in head if column not in table.columns]
    earlier = [row for row in table.rows if int(row["step"]) < step]  # later: of before a stop
    table.keep([*earlier, *(dict(zip(head, row, strict=True)) for row in plain)])
    for logger in trainer.loggers:
        _table(logger, name, head, [[step, *row] for row in rows], step)


def log_artifact(
    trainer: Trainer,
    name: str,
    path: str | Path,
    step: int,
    aliases: Sequence[str] = (),
    about: Mapping[str, Any] = {},
) -> None:
    """Show a file, which W&B keeps in its own store.

    Args:
        trainer: The run's.
        name: Of what the file holds.
        path: The file.
        step: Optimizer steps done.
        aliases: Names of this version, beside ``latest``.
        about: What W&B shows of it.
    """
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            _artifact(logger, name, Path(path), step, list(aliases), dict(about))


def takes_artifacts(trainer: Trainer) -> bool:
    """Whether a logger keeps files, so that one is worth being written for it."""
    return any(isinstance(logger, WandbLogger) for logger in trainer.loggers)


def log_config(trainer: Trainer, config: Mapping[str, Any]) -> None:
    """Show the run's configuration."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            _config(logger, config)


def _plain(cell: Any) -> str:
    return cell.file if isinstance(cell, Picture) else "" if cell is None else str(cell)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
                     for line in lines)  # fmt: skip


# --- one function for each kind of thing, by the logger's class; others' loggers get figures alone


@singledispatch
def _picture(logger: Logger, name: str, image: Image.Image, step: int) -> None:
    pass


@_picture.register
def _(logger: TensorBoardLogger, name: str, image: Image.Image, step: int) -> None:
    logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


@_picture.register
def _(logger: WandbRun, name: str, image: Image.Image, step: int) -> None:
    with logger.tolerated("pictures are missing"):
        logger.log_image(name, [image], step=step)


@singledispatch
def _table(logger: Logger, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
    pass


@_table.register
def _(
    logger: TensorBoardLogger, name: str, columns: list[str], rows: list[list[Any]], step: int
) -> None:
    logger.experiment.add_text(name, _markdown(columns, rows), step)


@_table.register
def _(logger: WandbRun, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
    import wandb

    with logger.tolerated("tables are missing"):
        cells = [
            [wandb.Image(cell.image) if isinstance(cell, Picture) else cell for cell in row]
            for row in rows
        ]
        # a name of its own: W&B keeps one kind of value under each
        logger.log_metrics({f"{name}_table": wandb.Table(columns=columns, data=cells)}, step)


@singledispatch
def _artifact(
    logger: Logger, name: str, path: Path, step: int, aliases: list[str], about: dict[str, Any]
) -> None:
    pass


@_artifact.register
def _(
    logger: TensorBoardLogger,
    name: str,
    path: Path,
    step: int,
    aliases: list[str],
    about: dict[str, Any],
) -> None:
    files = sorted(path.iterdir()) if path.is_dir() else [path]  # a folder in peft's form
    hashes = ", ".join(f"sha256 of {file.name}: `{sha256_file(file)}`" for file in files)
    text = f"`{path.name}` {', '.join(aliases)}, {hashes}"
    logger.experiment.add_text(name, text, step)


@_artifact.register
def _(
    logger: WandbRun, name: str, path: Path, step: int, aliases: list[str], about: dict[str, Any]
) -> None:
    import wandb

    with logger.tolerated("the adapter's file is missing"):
        artifact = wandb.Artifact(
            f"{name}-{logger.experiment.id}", "model", metadata={**about, "step": step}
        )
        add = artifact.add_dir if path.is_dir() else artifact.add_file
        add(str(path))
        logger.experiment.log_artifact(artifact, aliases=["latest", f"step-{step}", *aliases])


@singledispatch
def _config(logger: Logger, config: Mapping[str, Any]) -> None:
    pass


@_config.register
def _(logger: TensorBoardLogger, config: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    logger.experiment.add_text("config", "    " + text.replace("\n", "\n    "), 0)


@_config.register
def _(logger: WandbRun, config: Mapping[str, Any]) -> None:
    logger.log_settings(config)
