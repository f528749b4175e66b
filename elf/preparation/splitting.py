"""Which samples are kept for validation, by their ids alone."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from elf.draws import Words, id_words, uniform

_FEW = 8  # with fewer samples none is held out only to have one


def held_out(ids: Sequence[str], fraction: float) -> set[str]:
    """Return the ids kept for validation: those whose hash falls below the fraction.

    A sample's fate does not depend on the others, but for two exceptions: where there are enough
    samples at least one is held out (if any should be), and at least one is always trained on.
    """
    held = held_out_words(id_words(ids), fraction)
    return {name for name, is_held in zip(ids, held.tolist(), strict=True) if is_held}


def held_out_words(words: Words, fraction: float) -> npt.NDArray[np.bool_]:
    """Return which ids are kept for validation, as :func:`held_out`; equal ones share their fate.

    Args:
        words: (samples,) their ``id_words``.
        fraction: From 0 to 1.
    """
    distinct, places = np.unique(words, return_inverse=True)
    draws = uniform(distinct.astype(np.int64), "held out")
    held = draws < fraction
    if not held.any() and fraction > 0 and len(distinct) >= _FEW:
        held[draws.argmin()] = True
    if held.all() and len(distinct):
        held[draws.argmax()] = False
    return held[places]
