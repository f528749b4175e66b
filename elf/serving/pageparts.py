"""What the page that draws and the page that answers share."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr

from elf.errors import ElfError
from elf.generation import SamplingStopped

NONE = "(base)"
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}


class Stops:
    """What stops the work for a page, by its session."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    @contextlib.contextmanager
    def of(self, request: gr.Request) -> Iterator[threading.Event]:
        """Give what is set when a page's work is to end, for as long as it lasts."""
        name, event = str(request.session_hash), threading.Event()
        self._events[name] = event
        try:
            yield event
        finally:
            if self._events.get(name) is event:  # else a later one's
                del self._events[name]

    def stop(self, request: gr.Request) -> None:
        """Let a page's work end after its step or token."""
        event = self._events.get(str(request.session_hash))
        if event is not None:
            event.set()


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Let Elf's messages reach the page; of anything else it hears that something failed."""
    try:
        yield
    except ElfError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except SamplingStopped:
        raise gr.Error("stopped", print_exception=False) from None


def adapter_of(chosen: str | None) -> str | None:
    """Return the adapter that a page's list names; None is the base."""
    return None if chosen in (NONE, None, "") else chosen


def whole(**values: float | None) -> dict[str, int]:
    """Return numbers as whole ones.

    Raises:
        ElfError: If one is none, with its name.
    """
    for name, value in values.items():
        if value is None or value % 1 != 0:  # NaN and infinity too
            raise ElfError(f"{name} {value} is no whole number")
    return {name: int(value) for name, value in values.items() if value is not None}
