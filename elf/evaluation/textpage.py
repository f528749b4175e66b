"""The report of a language model's adapter: answers side by side, curves, and all figures."""

from elf.counted import counted
from elf.evaluation import tables
from elf.evaluation.charts import Line
from elf.evaluation.curves import over_strength, ratios, shares
from elf.evaluation.schema import TextMetrics
from elf.evaluation.shell import document, made_from
from elf.evaluation.textgallery import answers
from elf.evaluation.words import question

RIGHT = ("exact_match", "forgetting_exact_match", "rouge_l")
LIKELY = ("perplexity_ratio", "forgetting_perplexity_ratio")
OLD = "forgetting"
SHARES = "Shares; intervals are those of the difference from the base."
RATIOS = (
    "As a factor of the base's, with its 95 % interval: below 1 text is likelier than to the base."
)


def text_page(metrics: TextMetrics) -> str:
    """Return the whole page of text; sections without data are left out."""
    sections = (
        ("answers", "Base and adapter", answers(metrics, forgetting=False)),
        ("forgetting", "Not to be forgotten", answers(metrics, forgetting=True)),
        ("rates", "Right answers by strength", rates(metrics)),
        ("likelihood", "Perplexity by strength", likelihood(metrics)),
        ("rows", "All figures", tables.measured(metrics)),
        ("skipped", "Not measured", tables.skipped(metrics)),
        ("compared", "Adapters compared", tables.compared(metrics)),
        ("made", "Made from", made_from(metrics)),
    )
    counts = (
        f"{counted(len(metrics.prompts), 'prompt')} × {counted(len(metrics.variants), 'variant')}"
    )
    return document(metrics, counts, sections, viewer=False)


def rates(metrics: TextMetrics) -> str:
    """Return, for each adapter, how many answers are right over the strength."""
    drawn = {
        adapter: [
            Line(question(name).title, points, dashed=name.startswith(OLD))
            for name in RIGHT
            if len(points := shares(metrics, adapter, name)) > 1
        ]
        for adapter in metrics.adapters
    }
    return over_strength(metrics, drawn, level=None, share=True, note=SHARES)


def likelihood(metrics: TextMetrics) -> str:
    """Return, for each adapter, what the perplexity is beside the base's over the strength."""
    drawn = {
        adapter: [
            Line(question(name).title, points, dashed=name.startswith(OLD))
            for name in LIKELY
            if len(points := ratios(metrics, adapter, name)) > 1
        ]
        for adapter in metrics.adapters
    }
    return over_strength(metrics, drawn, level=1.0, share=False, note=RATIOS, logarithmic=True)
