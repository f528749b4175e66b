"""The sets of pictures or documents that the validation loss is measured on."""

from collections.abc import Mapping

HELD_OUT = "held_out"
"""Pictures of what is learnt that are not trained on."""

TRAINED = "trained"
"""Some of those that are trained on: how much better they are is what is learnt by heart."""

UNRELATED = "unrelated"
"""Pictures without what is learnt, never trained on: how much worse they get is what is forgotten.
"""

PREFIX = {HELD_OUT: "val", TRAINED: "val_trained", UNRELATED: "val_unrelated"}
"""How the metrics of each set begin."""


def gap(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return ``val/gap``, if there are both of its sets: held out less trained, ratios to the base.

    It is what was learnt of the training samples themselves.
    """
    held_out, trained = (f"{PREFIX[name]}/ratio" for name in (HELD_OUT, TRAINED))
    if held_out in metrics and trained in metrics:
        return {"val/gap": metrics[held_out] - metrics[trained]}
    return {}
