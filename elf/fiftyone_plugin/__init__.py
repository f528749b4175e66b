"""The buttons of Elf in the FiftyOne App; ``elf label`` loads them for as long as it runs.

Each stands above the grid, for the selected pictures, and in an open picture, for that one. A
decision is in ``decisions.jsonl``, synced, when the button's operator answers.
"""

import threading
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.fiftyone_app import fiftyone
from elf.label import decide, in_app
from elf.labels.decisions import Decision
from elf.labels.review import Label, one_line, split_tags, without

operators: Any = fiftyone().operators
types = operators.types
Operator: Any = operators.Operator

_TURN = threading.Lock()
"""The server answers in several threads; decisions are appended by one at a time."""


class ReviewOperator(Operator):  # type: ignore[misc]  # FiftyOne has no types
    """A button: from the label that a picture shows to a decision.

    Attributes:
        title: Of the button.
        icon: A name of Material's.
        place: Where it stands.
        suffix: Of its name there.
        one: It edits what one picture has, not several at once.
    """

    title = icon = suffix = ""
    place = types.Places.SAMPLES_GRID_SECONDARY_ACTIONS
    one = False

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Return the decision about a picture.

        Args:
            label: As it shows now.
            params: What the form holds.
        """
        raise NotImplementedError

    def form(self, inputs: Any, labels: list[Label]) -> None:
        """Add the form's fields; a button without any acts at once."""

    @property
    def config(self) -> Any:
        """Return what the App wants to know of the operator."""
        return operators.OperatorConfig(
            name=self.title.lower().replace(" ", "_") + self.suffix,
            label=self.title,
            icon=self.icon,
            unlisted=bool(self.suffix),
        )

    def resolve_placement(self, ctx: Any) -> Any:
        """Return the button."""
        view = types.Button(label=self.title, icon=self.icon, prompt=self._has_form)
        return types.Placement(self.place, view)

    @property
    def _has_form(self) -> bool:
        return type(self).form is not ReviewOperator.form

    def resolve_input(self, ctx: Any) -> Any:
        """Return the form, or what must be done first."""
        if not self._has_form:
            return None
        inputs = types.Object()
        labels = [in_app(sample) for sample in targets(ctx)]
        problem = self._problem(len(labels))
        if problem:
            inputs.view("problem", types.Warning(label=problem)).invalid = True
        else:
            self.form(inputs, labels)
        many = f" of {len(labels)} pictures" if len(labels) > 1 else ""
        view = types.PromptView(label=f"{self.title}{many}", submit_button_label="Save")
        return types.Property(inputs, view=view)

    def _problem(self, count: int) -> str:
        if not count:
            return "Select pictures first, or open one."
        if self.one and count > 1:
            return f"{count} pictures are selected; this edits one: select or open a single one."
        return ""

    def execute(self, ctx: Any) -> None:
        """Write the decision, then show it; an error is told in the App."""
        with _TURN:
            samples = targets(ctx)
            problem = self._problem(len(samples))
            if problem:
                ctx.ops.notify(problem, variant="warning")
                return
            labels = Path(ctx.dataset.info["labels"])
            try:
                changed = decide(samples, labels, lambda label: self.edit(label, ctx.params))
            except ElfError as error:
                ctx.ops.notify(f"Nothing was written: {error}", variant="error")
                return
        ctx.ops.reload_samples()  # of an open picture
        ctx.ops.reload_dataset()  # of the grid
        done = f"{self.title}: {changed} of {len(samples)} pictures changed, written"
        ctx.ops.notify(done, variant="success")


def targets(ctx: Any) -> list[Any]:
    """Return the open picture's sample, or else the selected ones'."""
    ids = [ctx.current_sample] if ctx.current_sample else list(ctx.selected)
    return [ctx.dataset[key] for key in ids]


class EditTags(ReviewOperator):
    """The whole list of a picture's tags."""

    title, icon, one = "Edit tags", "edit_note", True

    def form(self, inputs: Any, labels: list[Label]) -> None:
        """Show the tags as a text."""
        inputs.str(
            "tags",
            default=", ".join(labels[0].tags),
            label="Tags",
            description="Commas part them; any tag is allowed, and so is none at all.",
            view=types.TextFieldView(multiline=True, rows=5),
        )

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Take the text's tags."""
        return {"tags": split_tags(params.get("tags"))}


class EditCaption(ReviewOperator):
    """A picture's caption."""

    title, icon, one = "Edit caption", "short_text", True

    def form(self, inputs: Any, labels: list[Label]) -> None:
        """Show the caption."""
        inputs.str(
            "caption",
            default=labels[0].caption,
            label="Caption",
            description="One line of text; empty for none.",
            view=types.TextFieldView(multiline=True, rows=5),
        )

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Take the text in one line."""
        return {"caption": one_line(params.get("caption"))}


class AddTags(ReviewOperator):
    """Tags that all selected pictures get."""

    title, icon = "Add tags", "add"

    def form(self, inputs: Any, labels: list[Label]) -> None:
        """Ask for the tags."""
        text = "Commas part them. A picture that has one keeps it where it is."
        inputs.str("tags", required=True, label="Tags to add", description=text)

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Put what a label lacks behind it."""
        return {"tags": label.tags + without(split_tags(params.get("tags")), label.tags)}


class RemoveTags(ReviewOperator):
    """Tags that all selected pictures lose."""

    title, icon = "Remove tags", "remove"

    def form(self, inputs: Any, labels: list[Label]) -> None:
        """Ask for the tags and name those that there are."""
        there = ", ".join(dict.fromkeys(tag for label in labels for tag in label.tags))
        text = f"Commas part them. There are: {there}"
        inputs.str("tags", required=True, label="Tags to remove", description=text)

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Strike them out."""
        return {"tags": without(label.tags, split_tags(params.get("tags")))}


class Keep(ReviewOperator):
    """A verdict."""

    title, icon = "Keep picture", "thumb_up"

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Keep the picture."""
        return {"keep": True}


class Drop(ReviewOperator):
    """A verdict."""

    title, icon = "Drop picture", "thumb_down"

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Leave the picture out."""
        return {"keep": False}


class ClearDecision(ReviewOperator):
    """What takes all back."""

    title, icon = "Clear decision", "undo"

    def edit(self, label: Label, params: dict[str, Any]) -> Decision:
        """Make verdict, tags and caption the models' again."""
        return {"keep": None, "tags": None, "caption": None}


OPERATORS = (Keep, Drop, EditTags, EditCaption, AddTags, RemoveTags, ClearDecision)


def register(plugin: Any) -> None:
    """Give FiftyOne the buttons, each for the grid and for an open picture."""
    there = {"place": types.Places.SAMPLES_VIEWER_ACTIONS, "suffix": "_open"}
    for operator in OPERATORS:
        plugin.register(operator)
        plugin.register(type(f"{operator.__name__}Open", (operator,), there))
