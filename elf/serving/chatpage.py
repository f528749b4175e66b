"""The chat page, and the same as an API: ``/chat``, ``/compare``, ``/adapters``, ``/stop``.

All that is answered shares one place in Gradio's queue, and one lock below it: requests of many
pages wait for each other, and each is answered with its own adapter. A chat lies in its page alone.
"""

import functools
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from elf.errors import ElfError
from elf.language.rows import Turn
from elf.serving.chat import ChatRequest, turns_of
from elf.serving.chatengine import ChatEngine, Said
from elf.serving.pageparts import NONE, ONE_AT_A_TIME, Stops, adapter_of, telling, whole
from elf.serving.streaming import streamed

Messages = list[dict[str, Any]]
"""Of a chat: ``role`` and ``content``."""


class ChatPage:
    """What the page's buttons do.

    Args:
        engine: Answers.
    """

    def __init__(self, engine: ChatEngine) -> None:
        self.engine = engine
        self._stops = Stops()

    def adapters(self) -> list[str]:
        """Return the names that may be asked for."""
        return [NONE, *self.engine.served]

    def chat(
        self, request: gr.Request, message: str, history: Messages, system: str, adapter: str,
        strength: float, temperature: float, top_p: float, max_tokens: float, seed: float,
    ) -> Iterator[tuple[Messages, str, str, float]]:  # fmt: skip
        """Answer; yield the chat with the answer so far, the answer, how it came, and its seed."""
        asked = _request(
            message, history, system, adapter, strength, temperature, top_p, max_tokens, seed
        ).checked(self.engine.limits)
        with self._stops.of(request) as stop:
            for said in self._said(asked, stop):
                text, note = (said.text, said.note) if isinstance(said, Said) else (said, "…")
                yield _messages(asked, text), text, note, asked.seed

    def compare(
        self, request: gr.Request, message: str, history: Messages, base_history: Messages,
        system: str, adapter: str, strength: float, temperature: float, top_p: float,
        max_tokens: float, seed: float,
    ) -> Iterator[tuple[Messages, Messages, str, str, str, float]]:  # fmt: skip
        """Answer without and with the adapter, of one seed, each going on with its own chat."""
        asked = _request(
            message, history, system, adapter, strength, temperature, top_p, max_tokens, seed
        ).checked(self.engine.limits)
        plain = replace(asked, turns=turns_of(base_history, message), adapter=None)
        texts, notes = ["", ""], ["…", ""]
        with self._stops.of(request) as stop:
            for side, one in enumerate((plain, asked)):
                if stop.is_set():
                    break
                for said in self._said(one, stop):
                    done = isinstance(said, Said)
                    texts[side] = said.text if isinstance(said, Said) else said
                    notes[side] = said.note if isinstance(said, Said) else "…"
                    chats = _messages(plain, texts[0]), _messages(asked, texts[1])
                    yield *chats, texts[0], texts[1], " | ".join(notes[: side + 1]), asked.seed
                    if done:
                        break

    def shown_chat(self, request: gr.Request, *values: Any) -> Iterator[Any]:
        """Do as :meth:`chat` does, the chat as it is shown before it."""
        for found in self.chat(request, *values):
            yield _shown(found[0]), *found

    def shown_pair(self, request: gr.Request, *values: Any) -> Iterator[Any]:
        """Do as :meth:`compare` does, the chats as they are shown before it."""
        for found in self.compare(request, *values):
            yield _shown(found[0]), _shown(found[1]), *found

    def stop(self, request: gr.Request) -> None:
        """Let what a page is answered end after its token."""
        self._stops.stop(request)

    def _said(self, asked: ChatRequest, stop: threading.Event) -> Generator[str | Said, None, None]:
        def work(tell: Callable[[str], None], stopped: Callable[[], bool]) -> Said:
            return self.engine.answer(asked, tell, stopped)

        said = yield from streamed(work, stop)
        yield said


def _request(
    message: str, history: Messages, system: str, adapter: str, strength: float,
    temperature: float, top_p: float, max_tokens: float, seed: float,
) -> ChatRequest:  # fmt: skip
    for name, value in (("strength", strength), ("temperature", temperature), ("top_p", top_p)):
        if value is None:
            raise ElfError(f"{name}: give a number")
    return ChatRequest(
        turns_of(history, message), system or "", adapter_of(adapter),
        strength, temperature, top_p, **whole(max_tokens=max_tokens, seed=seed),
    )  # fmt: skip


def _messages(asked: ChatRequest, answer: str) -> Messages:
    turns = (*asked.turns, Turn("assistant", answer))
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _shown(messages: Messages) -> Messages:
    """Return messages in a form that a chatbot leaves as they are."""
    return [
        {"role": each["role"], "content": [{"type": "text", "text": each["content"]}]}
        for each in messages
    ]


def _told(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(function)
    def call(*values: Any, **more: Any) -> Iterator[Any]:
        with telling():
            yield from function(*values, **more)

    return call


def build(engine: ChatEngine, title: str, first: ChatRequest, asked: str, some: list[str]) -> Any:
    """Return the page as Gradio's blocks.

    Args:
        engine: Answers.
        title: Over the page.
        first: What its fields hold at first.
        asked: In the message's field at first.
        some: Messages to begin with.
    """
    page = ChatPage(engine)
    limits = engine.limits
    words: dict[str, Any] = {"render_markdown": False, "height": 420, "buttons": []}
    hidden: dict[str, Any] = {"visible": False}
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"## {title}")
        with gr.Row():
            left = gr.Chatbot(label="Base", **words)
            right = gr.Chatbot(label="Chosen adapter", **words)
        message = gr.Textbox(asked, label="Message", lines=2)
        with gr.Row():
            ask = gr.Button("Ask", variant="primary")
            compare = gr.Button("Base | adapter")
            stop = gr.Button("Stop", variant="stop")
            clear = gr.Button("Begin anew")
        note = gr.Textbox(label="How it was answered", interactive=False)
        with gr.Row():
            choices = page.adapters()
            adapter = gr.Dropdown(choices, value=first.adapter or choices[-1], label="Adapter")
            strength = gr.Slider(*limits.strengths, first.strength, step=0.05, label="Strength")
            seed = gr.Number(first.seed, label="Seed (-1: any)", precision=0)
            last = gr.Number(None, label="Last seed", precision=0, interactive=False)
        with gr.Row():
            temperature = gr.Slider(
                0, limits.temperature, first.temperature, step=0.05, label="Temperature (0: greedy)"
            )
            top_p = gr.Slider(0.01, 1, first.top_p, step=0.01, label="Top p")
            max_tokens = gr.Slider(
                1, limits.longest_answer, first.max_tokens, step=1, label="Tokens of an answer"
            )
        system = gr.Textbox(first.system, label="System prompt", lines=2)
        if some:
            gr.Examples([[each] for each in some], [message])
        # A chatbot given back by a page could hold files and components, and its words change.
        history, base_history = gr.JSON([], **hidden), gr.JSON([], **hidden)
        answer, base_answer = gr.Textbox(**hidden), gr.Textbox(**hidden)
        how = [system, adapter, strength, temperature, top_p, max_tokens, seed]
        alone = [message, history, *how], [history, answer, note, last]
        both = (
            [message, history, base_history, *how],
            [base_history, history, base_answer, answer, note, last],
        )
        shown: dict[str, Any] = {"api_visibility": "private", **ONE_AT_A_TIME}
        clicks = [ask.click, message.submit]
        one = gr.on(clicks, _told(page.shown_chat), alone[0], [right, *alone[1]], **shown)
        two = compare.click(_told(page.shown_pair), both[0], [left, right, *both[1]], **shown)
        asks = gr.Button(**hidden), gr.Button(**hidden)  # programs need no chatbots
        asks[0].click(_told(page.chat), *alone, api_name="chat", **ONE_AT_A_TIME)
        asks[1].click(_told(page.compare), *both, api_name="compare", **ONE_AT_A_TIME)
        stop.click(page.stop, None, None, api_name="stop", queue=False)
        own: dict[str, Any] = {"api_visibility": "private", "queue": False}
        for done in (one, two):
            done.success(lambda: "", None, message, **own)
        clear.click(lambda: ([],) * 4, None, [left, right, history, base_history], **own)
        left.clear(lambda: [], None, base_history, **own)
        right.clear(lambda: [], None, history, **own)
        listed: Any = gr
        listed.api(page.adapters, api_name="adapters", queue=False)
    return blocks
