"""The rows of the report's table, from arrays: what was measured of each variant's pictures.

Shapes: P prompts, S seeds, M training pictures, D embedding width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from elf.evaluation.plan import BASE, Variant
from elf.evaluation.schema import Difference, Row
from elf.metrics import (
    FID_MINIMUM,
    Interval,
    cmmd,
    diversity,
    drift,
    fid,
    jackknife_difference,
    jackknife_ratio,
    kid,
    normalise,
    paired_difference,
    share_difference,
    similarity_to_references,
    similarity_to_texts,
)

Array = np.ndarray
Tables = Mapping[str, Array]
"""Scores (P, S), or embeddings (P, S, D), by the name of the variant."""

ALIKE, PAIRED, SIDE, SEEDS, UNTRIGGERED = 40, 80, 50, 4, 20
"""From how many pictures, or seeds, or prompts, metrics can be relied on."""


def skipped(name: str, why: str) -> Row:
    """Return the row of a question that has no answer, with what it takes."""
    return Row(name, "", None, None, None, None, None, None, f"skipped: {why}")


def difference(interval: Interval) -> Difference:
    """Return an interval as ``metrics.json`` has it: without bounds where it has none."""
    if np.isnan(interval.low):
        return Difference(interval.mean)
    return Difference(interval.mean, interval.low, interval.high)


def compared(
    name: str,
    scores: Tables,
    needed: int | None,
    better: Literal["higher", "lower"] | None,
    note: str,
    shares: bool = False,
    kept: bool = False,
) -> list[Row]:
    """Return a row of each variant beside the base: means, and their paired difference.

    Args:
        name: The metric.
        scores: Of each picture (P, S); prompts without a score are NaN throughout.
        needed: From how many pictures it can be relied on.
        better: Which way is better.
        note: How it was measured.
        shares: The scores are shares from 0 to 1, many of them perhaps equal.
        kept: They are of what an adapter should keep of its base; see ``Row.over_half``.
    """
    interval = share_difference if shares else paired_difference
    scored = ~np.isnan(scores[BASE.name]).all(axis=1)
    if not scored.any():
        return []
    base = scores[BASE.name][scored]
    rows = []
    for variant, table in scores.items():
        if variant != BASE.name:
            adapter = table[scored]
            found = difference(interval(base, adapter))
            half = difference(interval(base / 2, adapter)) if kept else None
            means = float(base.mean()), float(adapter.mean())
            rows.append(Row(name, variant, *means, found, base.size, needed, better, note, half))
    return rows


def each(tables: Tables, score: Callable[[Float[Array, "P S D"]], Float[Array, "P S"]]) -> Tables:
    """Return scores of each variant's embeddings."""
    return {variant: score(table) for variant, table in tables.items()}


def flat(table: Float[Array, "P S D"]) -> Float[Array, "PS D"]:
    """Return the embeddings of all pictures below each other."""
    return table.reshape(-1, table.shape[-1])


def subject_scores(tables: Tables, references: Float[Array, "M D"]) -> Tables:
    """Return how like the training pictures each picture is."""
    return each(
        tables,
        lambda table: similarity_to_references(flat(table), references).reshape(table.shape[:2]),
    )


def share_rows(scores: Tables, references: Float[Array, "M D"], note: str) -> list[Row]:
    """Return how much of the way from the base to the training pictures themselves was gone.

    1 is as like the training pictures as these are like each other; interval and all are those of
    the likeness, over the base's distance.
    """
    if len(references) < 2:
        return []
    units = normalise(references)
    count, total = len(units), np.square(units.sum(axis=0)).sum()
    among = (total - count) / (count * (count - 1))  # mean cosine of two different ones
    distance = float(among - np.nanmean(scores[BASE.name]))
    if distance <= 0:
        return [skipped("subject_share", "the base is as like the training pictures as they are")]
    shares = {variant: table / distance for variant, table in scores.items()}
    return [
        replace(row, base=0.0, adapter=row.difference.mean)
        for row in compared("subject_share", shares, ALIKE, "higher", note)
        if row.difference is not None
    ]


def prompt_scores(tables: Tables, texts: Float[Array, "P D"]) -> Tables:
    """Return how well each picture fits its own prompt."""

    def score(table: Float[Array, "P S D"]) -> Float[Array, "P S"]:
        repeated = np.repeat(texts, table.shape[1], axis=0)
        return similarity_to_texts(flat(table), repeated).reshape(table.shape[:2])

    return each(tables, score)


def margin_scores(tables: Tables, texts: Float[Array, "P D"]) -> Tables:
    """Return by how much better each picture fits its own prompt than the others, on average.

    Of pictures that do not depend on the prompt it is zero, whatever they show.
    """
    units = normalise(texts)

    def score(table: Float[Array, "P S D"]) -> Float[Array, "P S"]:
        fits = normalise(flat(table)).reshape(table.shape) @ units.T  # (P, S, P)
        own = np.einsum("psp->ps", fits)
        result: Array = own - (fits.sum(axis=2) - own) / (len(units) - 1)
        return result

    return each(tables, score)


def change_row(
    name: str, variant: str, distances: Float[Array, "P S"], note: str, needed: int | None = None
) -> Row:
    """Return how far a variant's pictures are from the base's, which are no distance from them."""
    found = difference(paired_difference(np.zeros_like(distances), distances))
    return Row(name, variant, None, found.mean, found, distances.size, needed, None, note)


def change_rows(tables: Tables, name: str, note: str, needed: int | None) -> list[Row]:
    """Return how far each variant's pictures are from the base's, of the same prompt and seed."""
    base = tables[BASE.name]
    rows = []
    for variant, table in tables.items():
        if variant != BASE.name:
            rows.append(change_row(name, variant, drift(base, table), note, needed))
    return rows


def distribution_rows(
    tables: Tables, references: Float[Array, "M D"], by: str, clip: bool
) -> list[Row]:
    """Return how far each variant's pictures are from the training pictures as two sets."""
    rows: list[Row] = []
    count, others = tables[BASE.name][..., 0].size, len(references)
    if min(count, others) < 2:
        return [skipped("cmmd" if clip else "kid", "it takes two pictures on each side")]
    metric, name = (cmmd, "cmmd") if clip else (kid, "kid")
    note = f"unbiased, {by}, to {others} training pictures"
    base = tables[BASE.name]
    for variant, table in tables.items():
        if variant != BASE.name:
            values = metric(flat(base), references), metric(flat(table), references)
            found = jackknife_difference(
                lambda sample: metric(flat(sample), references), base, table
            )
            size = min(count, others)
            rows.append(Row(name, variant, *values, difference(found), size, SIDE, "lower", note))
    return rows


def fid_rows(tables: Tables, references: Float[Array, "M D"], by: str) -> list[Row]:
    """Return the Fréchet distances, where there are pictures enough for one."""
    count = min(tables[BASE.name][..., 0].size, len(references))
    if count < FID_MINIMUM:
        return [skipped("fid", f"it takes {FID_MINIMUM:,} pictures a side, of {count} it is wrong")]
    base = fid(flat(tables[BASE.name]), references)
    note = f"{by}, to {len(references)} training pictures"
    return [
        Row(
            "fid",
            variant,
            base,
            fid(flat(table), references),
            None,
            count,
            FID_MINIMUM,
            "lower",
            note,
        )
        for variant, table in tables.items()
        if variant != BASE.name
    ]


def diversity_rows(tables: Tables, by: str) -> list[Row]:
    """Return how different the pictures of one prompt are from each other."""
    seeds = tables[BASE.name].shape[1]
    if seeds < 2:
        return [skipped("diversity", "it takes two seeds; give more data.seeds")]
    note = f"mean distance of a prompt's {seeds} seeds by {by}; far below the base it has collapsed"
    scores = {variant: diversity(table)[:, None] for variant, table in tables.items()}
    prompts = len(tables[BASE.name])
    of = {"pictures": seeds * prompts, "needed": SEEDS * prompts}
    rows = [replace(row, **of) for row in compared("diversity", scores, None, None, note)]
    base = scores[BASE.name]
    if not base.any():
        return rows
    for variant, table in scores.items():
        if variant != BASE.name:
            ratio = jackknife_ratio(np.mean, base, table)
            found = difference(Interval(ratio.mean - 1, ratio.low - 1, ratio.high - 1))
            note = "diversity over the base's; near 0 it has collapsed"
            share = Row("diversity_ratio", variant, 1.0, ratio.mean, found, None, None, None, note)
            rows.append(replace(share, **of))
    return rows


def chosen(tables: Tables, prompts: Bool[Array, " P"]) -> Tables:
    """Return the rows of some prompts."""
    return {variant: table[prompts] for variant, table in tables.items()}


def weight_rows(changes: Mapping[str, float], variants: Sequence[Variant]) -> list[Row]:
    """Return ‖ΔW‖ / ‖W‖ of each variant."""
    note = "‖ΔW‖ / ‖W‖ of the adapted layers"
    return [
        Row("weight_change", each.name, None, changes[each.name], None, None, None, None, note)
        for each in variants
        if each != BASE
    ]
