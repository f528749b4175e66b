"""The sets of pictures that the validation loss is measured on."""

HELD_OUT = "held_out"
"""Pictures of what is learnt that are not trained on."""

TRAINED = "trained"
"""Some of those that are trained on: how much better they are is what is learnt by heart."""

UNRELATED = "unrelated"
"""Pictures without what is learnt, never trained on: how much worse they get is what is forgotten.
"""

PREFIX = {HELD_OUT: "val", TRAINED: "val_trained", UNRELATED: "val_unrelated"}
"""How the metrics of each set begin."""
