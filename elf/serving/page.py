"""The page, and the same as an API: ``/generate``, ``/compare``, ``/grid``, ``/adapters``.

All that draws shares one place in Gradio's queue, and one lock below it: requests of many pages
wait for each other, and each is drawn with its own adapter.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from elf.errors import ElfError
from elf.images import write_png
from elf.serving.engine import Drawn, Engine
from elf.serving.pageparts import NONE, ONE_AT_A_TIME, Stops, adapter_of, telling, whole
from elf.serving.request import Request
from elf.watching.sheet import Line, contact_sheet

Shown = tuple[list[tuple[str, str]], str, int]
KEPT = 3600
"""Seconds for which a picture can be fetched."""
MOST_CELLS = 64
"""Pictures of a grid."""
BUTTON: dict[str, Any] = {"min_width": 90, "size": "md"}
"""So that three stand side by side even on a phone."""
CSS = """
#pictures .grid-wrap { height: auto; max-height: none; }
#pictures .thumbnail-item { aspect-ratio: auto; }
#pictures .thumbnail-item img { height: auto; }
"""
"""A sheet is seen as a whole: Gradio's own cells are square, and its gallery of one height."""


class Page:
    """What the page's buttons do.

    Args:
        engine: Draws.
        folder: Where pictures lie until they are fetched; nothing else may be in it.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self._stops = Stops()

    def adapters(self) -> list[str]:
        """Return the names that may be asked for."""
        return [NONE, *self.engine.served]

    def generate(
        self, request: gr.Request, prompt: str, negative_prompt: str, adapter: str,
        strength: float, seed: float, steps: float, guidance: float, width: float, height: float,
        trigger: bool, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:  # fmt: skip
        """Draw one picture; return it, its infotext and its seed."""
        asked = _request(
            prompt, negative_prompt, adapter, strength, seed, steps, guidance, width, height,
            trigger,
        )  # fmt: skip
        drawn = self._draw([asked], request, progress)
        return self._shown(drawn)

    def compare(
        self, request: gr.Request, prompt: str, negative_prompt: str, adapter: str,
        strength: float, seed: float, steps: float, guidance: float, width: float, height: float,
        trigger: bool, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:  # fmt: skip
        """Draw one picture without and with the adapter, of the same seed and prompt."""
        asked = _request(
            prompt, negative_prompt, adapter, strength, seed, steps, guidance, width, height,
            trigger,
        ).checked(self.engine.limits)  # fmt: skip
        return self._shown(self._draw([replace(asked, strength=0.0), asked], request, progress))

    def grid(
        self, request: gr.Request, prompt: str, negative_prompt: str, adapter: str,
        strength: float, seed: float, steps: float, guidance: float, width: float, height: float,
        trigger: bool, strengths: str, seeds: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:  # fmt: skip
        """Draw strengths × seeds on one sheet."""
        asked = _request(
            prompt, negative_prompt, adapter, strength, seed, steps, guidance, width, height,
            trigger,
        ).checked(self.engine.limits)  # fmt: skip
        factors, rows = _numbers(strengths), int(seeds)
        if not 1 <= len(factors) * rows <= MOST_CELLS:
            raise ElfError(f"a grid of {len(factors) * rows} pictures; take 1 to {MOST_CELLS}")
        cells = [
            replace(asked, seed=asked.seed + row, strength=factor)
            for row in range(rows)
            for factor in factors
        ]
        drawn = self._draw(cells, request, progress)
        images = [each.image for each in drawn]
        lines = [
            Line(f"seed {asked.seed + row}", "", images[row * len(factors) :][: len(factors)])
            for row in range(rows)
        ]
        sheet = contact_sheet(lines, [f"strength {each:g}" for each in factors], asked.prompt, "")
        # of the first picture; what the others have is quoted, as it has commas
        across = ", ".join(f"{each:g}" for each in factors)
        said = f'{drawn[0].infotext}, Grid: "strengths {across}; {rows} seeds from {asked.seed}"'
        file = self._file(replace(drawn[0], image=sheet, infotext=said))
        return [(file, "strength × seed")], said, asked.seed

    def stop(self, request: gr.Request) -> None:
        """Let what a page draws end after its denoising step."""
        self._stops.stop(request)

    def _shown(self, drawn: list[Drawn]) -> Shown:
        pictures = [(self._file(each), _label(each)) for each in drawn]
        return pictures, drawn[-1].infotext, drawn[-1].request.seed

    def _draw(
        self, requests: list[Request], session: gr.Request, progress: gr.Progress
    ) -> list[Drawn]:
        with self._stops.of(session) as stop:
            return self.engine.draw(
                requests, lambda done, of: progress((done, of), desc="denoising"), stop.is_set
            )

    def _file(self, drawn: Drawn) -> str:
        for old in self.folder.iterdir():  # Gradio has copies of its own, for as long
            if old.stat().st_mtime < time.time() - KEPT:
                old.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".png", delete=False) as file:
            pass
        write_png(Path(file.name), drawn.image, {"parameters": drawn.infotext})
        return file.name


def _request(
    prompt: str, negative_prompt: str, adapter: str, strength: float, seed: float, steps: float,
    guidance: float, width: float, height: float, trigger: bool,
) -> Request:  # fmt: skip
    return Request(
        prompt or "",
        negative_prompt or "",
        adapter_of(adapter),
        strength,
        guidance=guidance,
        trigger=trigger,
        **whole(seed=seed, steps=steps, width=width, height=height),
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ElfError(f"strengths {text!r} are no numbers with commas between them") from None


def _label(drawn: Drawn) -> str:
    request = drawn.request
    plain = request.adapter is None or request.strength == 0
    what = "base" if plain else f"{request.adapter} × {request.strength:g}"
    return f"{what}, seed {request.seed}"


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*values: Any, **more: Any) -> Any:
        with telling():
            return function(*values, **more)

    return call


def build(engine: Engine, folder: Path, title: str, first: Request, examples: list[str]) -> Any:
    """Return the page as Gradio's blocks.

    Args:
        engine: Draws.
        folder: For pictures until they are fetched.
        title: Over the page.
        first: What its fields hold at first.
        examples: Prompts to begin with.
    """
    page = Page(engine, folder)
    low, high = engine.limits.strengths
    side = engine.limits.largest_side
    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT), fill_width=True
    ) as blocks:
        gr.Markdown(f"## {title}")
        with gr.Row():
            with gr.Column(scale=2):
                prompt = gr.Textbox(first.prompt, label="Prompt", lines=2)
                negative = gr.Textbox(first.negative_prompt, label="Negative prompt", lines=1)
                with gr.Row():
                    choices = page.adapters()
                    chosen = first.adapter or choices[-1]
                    adapter = gr.Dropdown(choices, value=chosen, label="Adapter")
                    strength = gr.Slider(low, high, first.strength, step=0.05, label="Strength")
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary", **BUTTON)
                    compare = gr.Button("Base | adapter", **BUTTON)
                    stop = gr.Button("Stop", variant="stop", **BUTTON)
                trigger = gr.Checkbox(first.trigger, label="Put its trigger before the prompt")
                with gr.Row():
                    seed = gr.Number(first.seed, label="Seed (-1: any)", precision=0)
                    last = gr.Number(-1, label="Last seed", precision=0, interactive=False)
                again = gr.Button("Take the last seed again", size="sm")
                with gr.Row():
                    steps = gr.Slider(1, 150, first.steps, step=1, label="Steps")
                    guidance = gr.Slider(0, 30, first.guidance, step=0.5, label="Guidance")
                with gr.Row():
                    width = gr.Slider(64, side, first.width, step=8, label="Width")
                    height = gr.Slider(64, side, first.height, step=8, label="Height")
                with gr.Accordion("Strength × seed", open=False):
                    strengths = gr.Textbox("0, 0.5, 1, 1.5", label="Strengths")
                    seeds = gr.Slider(1, 8, 2, step=1, label="Seeds")
                    grid = gr.Button("Draw the grid")
            with gr.Column(scale=3):
                pictures = gr.Gallery(
                    label="Pictures", show_label=False, format="png", columns=2, height="auto",
                    object_fit="contain", elem_id="pictures",
                )  # fmt: skip
                said = gr.Textbox(label="What is written into the file", lines=4, max_lines=12)
        if examples:
            gr.Examples([[each] for each in examples], [prompt])
        asked = [prompt, negative, adapter, strength, seed, steps, guidance, width, height, trigger]
        shown = [pictures, said, last]

        for button, function, given in (
            (generate, page.generate, asked),
            (compare, page.compare, asked),
            (grid, page.grid, [*asked, strengths, seeds]),
        ):
            name = function.__name__
            button.click(
                _told(function), given, shown, api_name=name, scroll_to_output=True,
                show_progress_on=pictures, **ONE_AT_A_TIME,
            )  # fmt: skip
        stop.click(page.stop, None, None, api_name="stop", queue=False)
        again.click(lambda value: value, last, seed, api_visibility="private", queue=False)
        listed: Any = gr
        listed.api(page.adapters, api_name="adapters", queue=False)
    return blocks
