"""The buttons of ``elf curate`` in the FiftyOne App: verdicts alone, for there may be no labels."""

from typing import Any

from elf.fiftyone_plugin import Drop, Keep, ReviewOperator, types
from elf.labels.decisions import Decision
from elf.labels.review import Label


class ClearVerdict(ReviewOperator):
    """What takes a verdict back."""

    title, icon = "Clear verdict", "undo"

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Leave the picture to the proposals."""
        return {"keep": None}


OPERATORS = (Keep, Drop, ClearVerdict)


def register(plugin: Any) -> None:
    """Give FiftyOne the buttons, each for the grid and for an open picture."""
    there = {"place": types.Places.SAMPLES_VIEWER_ACTIONS, "suffix": "_open"}
    for operator in OPERATORS:
        plugin.register(operator)
        plugin.register(type(f"{operator.__name__}Open", (operator,), there))
