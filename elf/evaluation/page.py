"""The report of `elf test`: one ``report.html`` that opens from the disk and needs nothing else."""

from pathlib import Path

from elf.counted import counted
from elf.evaluation import curves, galleries, tables
from elf.evaluation.galleries import Album
from elf.evaluation.reading import read_metrics
from elf.evaluation.schema import Metrics, TextMetrics
from elf.evaluation.shell import document, made_from
from elf.evaluation.textpage import text_page
from elf.files import explain_disk_errors, write_atomic

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Write the page of what `elf test` found into its folder, and return its path.

    The same folder makes the same bytes. A picture that is missing or damaged leaves a gap that
    says so.

    Args:
        folder: Holds ``metrics.json`` and the pictures that it names.

    Raises:
        ElfError: If ``metrics.json`` is missing, damaged, of another schema or contradicts
            itself, if none of its pictures can be shown, or if the disk refuses.
    """
    metrics = read_metrics(folder)
    if isinstance(metrics, TextMetrics):
        text = text_page(metrics)
    else:
        text = page(metrics, Album(folder, metrics))
    with explain_disk_errors(
        folder / REPORT, "the report was not written", "metrics.json is whole: make room and repeat"
    ):
        write_atomic(folder / REPORT, text)
    return folder / REPORT


def page(metrics: Metrics, album: Album) -> str:
    """Return the whole page of pictures; sections without data are left out."""
    sections = (
        ("pairs", "Base and adapter", galleries.pairs(album)),
        ("strengths", "Strength × seed", galleries.strengths(album)),
        ("curve", "Subject against prompt", curves.trade_off(metrics)),
        ("rates", "What the pictures show", curves.rates(metrics)),
        ("trigger", "Trigger on and off", tables.switched(metrics) + galleries.trigger(album)),
        ("nearest", "Nearest training pictures", galleries.nearest(album)),
        ("loss", "Validation loss by timestep", curves.strata(metrics)),
        ("rows", "All figures", tables.measured(metrics)),
        ("skipped", "Not measured", tables.skipped(metrics)),
        ("compared", "Adapters compared", tables.compared(metrics)),
        ("made", "Made from", made_from(metrics)),
    )
    return document(metrics, _counts(metrics), sections, viewer=True)


def _counts(metrics: Metrics) -> str:
    plan = metrics.plan
    parts = [counted(len(plan.prompts), "prompt"), counted(len(plan.seeds), "seed")]
    text = f"{' × '.join([*parts, counted(len(metrics.variants), 'variant')])}"
    return f"{text} · {counted(len(metrics.pictures), 'picture')}"
