"""An evaluation in the loggers: figures, the table, and pictures or answers side by side."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image

from elf.evaluation.schema import Found, Metrics, TextMetrics
from elf.watching import Picture, log_figures, log_picture, log_table
from elf.watching.sheet import Line, contact_sheet

COLUMNS = ("metric", "variant", "base", "adapter", "difference", "low", "high", "pictures", "note")
SHOWN = 64
"""Pictures of each variant at most, and sheets: a logger's page is no archive."""
ANSWERS = 500
"""Prompts at most, likewise."""


def log_metrics(trainer: Trainer, folder: Path, metrics: Found) -> None:
    """Show what an evaluation found in a trainer's loggers, whichever these are.

    Args:
        trainer: With the loggers.
        folder: Of the evaluation, in which its pictures are.
        metrics: What it found.
    """
    figures = {
        f"{row.name}/{side}": value
        for row in metrics.rows
        for side, value in ((row.variant, row.adapter), ("base", row.base))
        if value is not None
    }
    log_figures(trainer, figures, step=0)
    rows = [
        [
            row.name,
            row.variant,
            row.base,
            row.adapter,
            *((row.difference.mean, row.difference.low, row.difference.high)
              if row.difference else (None, None, None)),
            row.pictures,
            row.note,
        ]
        for row in metrics.rows
    ]  # fmt: skip
    log_table(trainer, "evaluation", COLUMNS, rows, step=0)
    if isinstance(metrics, TextMetrics):
        _log_answers(trainer, metrics)
    elif isinstance(metrics, Metrics):
        _log_pictures(trainer, folder, metrics)


def _log_answers(trainer: Trainer, metrics: TextMetrics) -> None:
    names = [variant.name for variant in metrics.variants]
    rows = [
        [prompt.text, prompt.reference, prompt.forgetting]
        + [metrics.answer(name, place) for name in names]
        for place, prompt in enumerate(metrics.prompts)
    ]
    columns = ("prompt", "reference", "forgetting", *names)
    log_table(trainer, "answers", columns, rows[:ANSWERS], step=0)


def _log_pictures(trainer: Trainer, folder: Path, metrics: Metrics) -> None:
    if not any(isinstance(logger, TensorBoardLogger | WandbLogger) for logger in trainer.loggers):
        return  # who shows none has them as files already
    names = [variant.name for variant in metrics.variants]
    pairs = [(prompt, seed) for prompt in range(len(metrics.plan.prompts))
             for seed in metrics.plan.seeds][:SHOWN]  # fmt: skip
    pictures = [
        [
            metrics.plan.prompts[prompt],
            seed,
            *(_picture(folder, metrics, name, prompt, seed) for name in names),
        ]
        for prompt, seed in pairs
    ]
    with Image.open(folder / "grid.png") as sheet:
        log_picture(trainer, "grid", sheet, step=0)
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        for prompt, text in enumerate(metrics.plan.prompts[:SHOWN]):
            lines = [
                Line(
                    f"seed {seed}",
                    "",
                    [_picture(folder, metrics, name, prompt, seed).image for name in names],
                )
                for seed in metrics.plan.seeds
            ]
            page = contact_sheet(lines, names, text, "")
            log_picture(trainer, f"sheets/prompt-{prompt:02d}", page, step=0)
    log_table(trainer, "pictures", ("prompt", "seed", *names), pictures, step=0)


def _picture(folder: Path, metrics: Metrics, variant: str, prompt: int, seed: int) -> Picture:
    picture = metrics.picture(variant, prompt, seed)
    assert picture is not None  # all variants drew the whole plan
    with Image.open(folder / picture.file) as image:
        texts = {str(key): text for key, text in image.info.items() if isinstance(text, str)}
        return Picture(image.convert("RGB"), picture.file, texts)
