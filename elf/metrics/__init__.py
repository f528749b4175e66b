"""What pictures and texts are measured by, as functions of arrays: NumPy and SciPy alone.

Shapes: N pictures, M references, D embedding width, P prompts, S seeds.
"""

from elf.metrics.bleu import bleu
from elf.metrics.copies import SSCD_COPY, Nearest, nearest_references, share_of_copies
from elf.metrics.distribution import FID_MINIMUM, cmmd, fid, kid
from elf.metrics.diversity import diversity
from elf.metrics.drift import drift
from elf.metrics.embeddings import checked, normalise
from elf.metrics.intervals import (
    Interval,
    jackknife_difference,
    jackknife_interval,
    jackknife_ratio,
    paired_difference,
    share_difference,
)
from elf.metrics.ratios import ratio_difference
from elf.metrics.similarity import similarity_to_references, similarity_to_texts

__all__ = [
    "FID_MINIMUM",
    "SSCD_COPY",
    "Interval",
    "Nearest",
    "bleu",
    "checked",
    "cmmd",
    "diversity",
    "drift",
    "fid",
    "jackknife_difference",
    "jackknife_interval",
    "jackknife_ratio",
    "kid",
    "nearest_references",
    "normalise",
    "paired_difference",
    "ratio_difference",
    "share_difference",
    "share_of_copies",
    "similarity_to_references",
    "similarity_to_texts",
]
