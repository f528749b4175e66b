"""BLEU of counted words: how much of what was said stands in the references, in pieces of 1–4.

Shapes: P prompts.
"""

import numpy as np
from jaxtyping import Float

Array = np.ndarray

ORDERS = 4
"""The longest pieces that are counted, words."""
COLUMNS = 2 * ORDERS + 2
"""Counts of a prompt: found pieces of 1–4 words, all of them, words said, words expected."""


def bleu(counts: Float[Array, "P 10"]) -> float:
    """Return BLEU of all prompts together: exp(min(0, 1 − r / c)) · (Π p_n)^¼, from 0 to 1.

    p_n is the share of all pieces of n words that stand in the references, c and r are the words
    said and expected (Papineni et al. 2002). Without a piece of four words it is 0.

    Args:
        counts: Of each prompt, see ``COLUMNS``.
    """
    total = counts.sum(axis=0)
    found, pieces = total[:ORDERS], total[ORDERS : 2 * ORDERS]
    said, expected = total[-2:]
    if not found.all() or not said:
        return 0.0
    brevity = min(0.0, 1 - float(expected / said))
    return float(np.exp(brevity + np.log(found / pieces).mean()))
