"""What pictures are measured by, as functions of arrays: NumPy and SciPy alone.

Shapes: N pictures, M references, D embedding width, P prompts, S seeds.
"""

from elf.metrics.embeddings import checked, normalise
from elf.metrics.intervals import Interval, paired_difference
from elf.metrics.similarity import similarity_to_references, similarity_to_texts

__all__ = [
    "Interval",
    "checked",
    "normalise",
    "paired_difference",
    "similarity_to_references",
    "similarity_to_texts",
]
